"""Tables, figures and the report page, made from the files of runs."""
