"""What any balloon can be told and asked, whatever kind of device it is."""
