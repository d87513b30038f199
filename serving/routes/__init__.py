"""HTTP routes by subject; each module builds one router over a Runtime."""
