"""Saliency maps of a data set's images: tools that compute them, and the record of which one did."""
