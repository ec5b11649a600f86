"""QEMU's monitor protocols, server side: QMP for programs and HMP for people."""
