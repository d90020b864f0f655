"""Training sets: many CTs in, labelled DRRs out as WebDataset shards, split by patient, with their hashes.

A finished folder holds

    settings.json            what was asked for, and with which versions; written first
    shards/SIZE/CT-NNNN.tar  samples CT-SIZE-VIEW.png (16 bit) and .json (view, label, provenance)
    cts/CT.json              one CT's shards; written when all of them are there
    index.json               the shards of every split and size
    manifest.json            hashes of all shards and CTs, patients and their split, what was skipped; written last

Nothing in it names a patient. A CT's key is a hash of its voxels and their grid, a patient's the smallest key among
that patient's CTs: the same on every computer, and known only to who has the CT already, where a hash of a PatientID
could be found by trying all IDs.
"""
