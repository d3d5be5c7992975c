"""Doubly linked lists through the chunk rows, as the kernel's list_head.

    head ──next──▶ a ──next──▶ b ──next──▶ head          link = LIST_NEXT   (slot lists)
         ◀──prev──   ◀──prev──   ◀──prev──                 or EXTEND_NEXT (map_extend_chunks)

A list is circular; an empty one is a head that points to itself. `link` is the
index of the `next` word within a row, the `prev` word follows it. A row that is
on no list has next = -1.
"""

from ._jit import kernel


@kernel
def list_init(chunk, link, head):
    chunk[head + link] = head
    chunk[head + link + 1] = head


@kernel
def list_empty(chunk, link, head):
    return chunk[head + link] == head


@kernel
def list_add(chunk, link, item, prev):
    """Insert item behind prev: behind the head to push, behind the last to append."""
    following = chunk[prev + link]
    chunk[item + link] = following
    chunk[item + link + 1] = prev
    chunk[prev + link] = item
    chunk[following + link + 1] = item


@kernel
def list_add_tail(chunk, link, item, head):
    list_add(chunk, link, item, chunk[head + link + 1])


@kernel
def list_del(chunk, link, item):
    following = chunk[item + link]
    prev = chunk[item + link + 1]
    chunk[prev + link] = following
    chunk[following + link + 1] = prev
    chunk[item + link] = -1
    chunk[item + link + 1] = -1
