"""Development only: the scripts behind the tables. Nothing imports them, and no wheel has them."""
