"""A page that shows a scan and what was found in it, in any browser, without a network."""
