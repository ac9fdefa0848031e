"""The web application of a user study: pages for raters and for the researcher."""
