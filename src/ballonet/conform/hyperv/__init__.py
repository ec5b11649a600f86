"""Checks of Hyper-V's Dynamic Memory: of a host by a scripted guest, and the other way round."""
