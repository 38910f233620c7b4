"""A document's way through the house, in the order of the modules:

    run         the way in: paths, uploads, deletions; one at a time (lock), each with its report
    source      a path -> the files under it, their ids, their bytes
    metadata    front matter, sidecar, folders -> who may read it and from when
    sandbox     bytes -> worker process, which can be killed
    readers     bytes -> blocks (markdown, html, pdf, docx), cleaning on the way
    diff        the document against its latest version: added, updated, unchanged
    splitter    blocks -> chunks
    publish     chunks -> embeddings, points, a version that answers; repair after a crash, removal at the end
    sync        all of these in one run

`known` reads what the database has, `watch` runs again when something changes.
"""
