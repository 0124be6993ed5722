"""TPM 2.0 structures: marshalled bytes to frozen types. Source: TPM 2.0 Library Part 2, revision 1.59."""
