"""A web page on this machine that shows what a run predicts for your own images (`barm serve`)."""
