"""Tables and remarks for images scored under several protocols (`dbbench score`)."""
