"""A page on this machine to try a run on images of one's own (`barm serve`)."""
