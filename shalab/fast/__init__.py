"""What makes the plain equations fast: one file per trick, each a stand-in for one plain function (`shalab.door`)."""

from shalab.fast import attention, boom, decoder, lamb, lstm, masks

__all__ = ["attention", "boom", "decoder", "lamb", "lstm", "masks"]
