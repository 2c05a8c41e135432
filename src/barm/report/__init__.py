"""Tables and images, made from result files."""
