"""A plugin for nbval: instead of a kernel, the outputs of a notebook that was run already, named by $COMPUTED."""

import os

import nbformat
import nbval.plugin


class Computed:
    """Answers the source of a cell with what that cell showed, as the messages of a kernel."""

    def __init__(self, kernel_name, cwd=None, startup_timeout=None):
        cells = nbformat.read(os.environ["COMPUTED"], as_version=4).cells
        self._shown = {cell.source: cell.outputs for cell in cells if cell.cell_type == "code"}
        self._messages = iter(())

    def execute_cell_input(self, source, allow_stdin=None):
        shown = [(output.output_type, output) for output in self._shown[source]]
        messages = [*shown, ("status", {"execution_state": "idle"})]
        self._messages = (
            {"msg_type": kind, "content": content, "parent_header": {"msg_id": source}} for kind, content in messages
        )
        return source

    def get_message(self, stream, timeout=None):
        return next(self._messages)

    def await_reply(self, msg_id, timeout=None):
        pass

    def is_alive(self):
        return True

    def stop(self):
        pass


nbval.plugin.RunningKernel = Computed
