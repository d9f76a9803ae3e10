"""Networks of other projects, read into ours."""
