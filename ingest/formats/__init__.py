"""The formats, a reader each, and what they share. They run in the sandbox and know nothing of versions or groups.

markdown, html, pdf, docx, pptx, xlsx, odt, eml     bytes -> headings, paragraphs, lists and tables
limits, package, markup, pdf_content                what a file may ask for, looked at before a library opens it
cleaning, hidden                                    characters that are no text, and what is told of it
visibility, stylesheet, colours                     what nobody sees on a page
docx_looks, pdf_page, pdf_lines, pdf_visibility     the same for Word documents and PDFs
number_format                                       figures in a sheet as a person sees them
"""
