"""`barm bench`: cost of an update, an evaluation and the data path, against a plain version and the bare network."""
