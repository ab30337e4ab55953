"""Numbers, pictures and files that the other rooms write."""
