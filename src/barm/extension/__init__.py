"""`barm extend`: a finished network learns a new class from images in which only that class is labelled."""
