"""Records as rows of tables, whatever database keeps them."""
