"""Work that is done in processes of its own, so that it takes nothing from those who are served."""
