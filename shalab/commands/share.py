"""shalab export and page: a trained model for others."""

from shalab.commands import Command


def define(command: Command) -> None:
    purpose = "copy a finished run without what only resuming needs, to share it"
    add = command("export", export_command, purpose).add_argument
    add("run", help="a finished run's folder; for onnx and safetensors an unfinished one will do")
    add("out", help="a new folder or file; eval, generate and info read it like a run's folder, but not onnx")
    formats = "folder", "onnx", "safetensors"
    add("--format", choices=formats, default="folder", help="onnx, safetensors: one file for other programs")

    add = command("page", page_command, "write a model as one web page, in which it reads and writes").add_argument
    add("run", help="a run's folder, or an export's")
    add("out", help="a new HTML file, to open or to send to somebody")


def export_command(options) -> None:
    from shalab import portable
    from shalab.export import export

    write = {"folder": export, "onnx": portable.export_onnx, "safetensors": portable.export_safetensors}
    write[options.format](options.run, options.out)


def page_command(options) -> None:
    from shalab.pages.run import page

    n_bytes = page(options.run, options.out)
    print(f"{options.out}: {n_bytes / 1e6:.1f} MB")
