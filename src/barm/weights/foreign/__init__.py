"""Files of other libraries: their networks are read, and written again with a wider classifier."""
