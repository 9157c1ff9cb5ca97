"""How queries are matched with objects, and charged for what they got wrong."""
