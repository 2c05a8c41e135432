"""`barm bench`: what an update, an evaluation and the data path cost, against the plain way and the bare network."""
