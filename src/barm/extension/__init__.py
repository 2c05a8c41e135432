"""`barm extend`: teach a finished network a new class from images in which only that class is labelled."""
