"""Live and static pictures of an allocator; each view is one file and is imported only when it is used."""
