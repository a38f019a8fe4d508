"""From files, archives, tables and packed sets to decoded images."""
