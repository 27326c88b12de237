"""Commands that only this method has; a file each, quick to import."""
