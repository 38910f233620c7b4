"""A document's way through the house, in the order of the modules:

    run         the way in: paths, uploads, deletions; one at a time, each with its report
    lock        who is at work: a lock on the folder, and one in a database that hosts share (holder, database_lock)
    sync        what one run does with a folder, top to bottom, with the modules that follow
    source      a path -> the files under it, their ids, their bytes
    metadata    front matter, sidecar, folders -> who may read it and from when
    engine      bytes -> blocks -> chunks -> vectors, here (sandbox, worker) or on a cluster (ray_engine)
    readers     bytes -> blocks, by the reader of the format (formats/)
    splitter    blocks -> chunks
    diff        the document against its latest version: added, updated, unchanged
    publish     chunks -> a version that answers, by way of the writer
    repair      what a crash left half-done, finished or undone; removal at the end of a document's life
    report      what a run did; contradictions and figures: what two documents say differently; progress on the way

`known` reads what the database has, `blocks` keeps what a version was read as, `reindex` builds the whole index anew
beside the live one, `watch` runs again when something changes.
"""
