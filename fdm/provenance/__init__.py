"""From a published number back to what made it (`fdm trace`), and whether everything is still as it was made (`fdm check`)."""
