"""Checks of VMware's balloon: of a host by a scripted guest, of a guest by a scripted host."""
