"""A page on this machine to try a run on one's own pictures (`barm serve`)."""

from barm.app.serve import Options, serve

__all__ = ["Options", "serve"]
