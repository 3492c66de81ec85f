"""Records and arrays → figures and tables; knows no run folder."""
