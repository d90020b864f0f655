"""The reader study of the SV-DRR paper, section 5: is a true DRR told from a synthetic view of the same angle?"""

FORMAT = "svdrr-reader-study-1"
