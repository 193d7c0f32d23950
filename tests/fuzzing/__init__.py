"""Random models, what they are held against, and how a failing one is kept and made smaller."""
