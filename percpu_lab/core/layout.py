"""Where everything stands in the arrays of an engine: one name for each index.

    g      int64   the globals, then three small tables (log, zero queue, filters)
    chunk  int64   one row of `g[ROW_WORDS]` words a chunk; a *handle* is the index of its first word
                   rows 0 .. NR_LIST_HEADS-1 are the list heads of the slots and of map_extend_chunks
    map    int32   one row of `g[MAP_STRIDE]` entries a chunk: the area map, offset | in_use
           int64   (bitmap) one row of words a chunk: alloc_map, then bound_map
    birth  int64   one row of `g[BIRTH_STRIDE]` words a chunk, word birth_index(off) for the area at off:
                   (op number << 16) | requested size while the area is allocated, else 0
    ring   int64   NR_RING_COLUMNS rows of `g[RING_CAPACITY]` words: the events
    order  int64   word k: the handle of the k-th chunk created (from 0, first chunk not counted), 0 once destroyed

Addresses are kept relative to the first chunk's base, so that they fit an int64.
"""

# --- globals ---------------------------------------------------------------
(
    # geometry, constant after setup
    UNIT_SIZE,
    UNIT_PAGES,
    NR_SLOTS,
    NR_CPUS,
    GROUP_PAGES,  # pages of the one group of a km chunk, all its units
    BACKING_KM,  # 0 vm, 1 km
    AREA_BASE,  # address of the 0th created chunk, relative to the first chunk
    AREA_STRIDE,
    PTR_BIAS,  # added to a relative address to get a percpu pointer (0 with SMP)
    ROW_WORDS,
    MAP_STRIDE,
    BIRTH_STRIDE,
    RING_CAPACITY,  # a power of two
    ORDER_CAPACITY,
    FIRST_CHUNK,  # handle
    RESERVED_CHUNK,  # handle, or 0
    RESERVED_LIMIT,  # pcpu_reserved_chunk_limit, bytes
    # time and control
    NOW,  # number of the current op; -1 during setup
    STATUS,  # why the last call stopped: STATUS_*
    REASON,  # why the last allocation failed: REASON_*
    HIT_CHUNK,  # handle of the chunk of the last alloc or free
    HIT_OFF,
    NEXT_SAMPLE,  # op number at which the history wants a sample
    FIRST_BASE,  # address of the first chunk, as a signed 64-bit pattern
    # locks
    ALLOC_MUTEX,  # 1 while pcpu_alloc_mutex is held
    PCPU_LOCK,  # 1 while pcpu_lock is held
    # the kernel's globals
    NR_EMPTY_POP_PAGES,
    ATOMIC_ALLOC_FAILED,
    ASYNC_ENABLED,
    BALANCE_PENDING,
    AUTO_BALANCE,  # run the balance work at the end of the op that made it pending
    WARN_LIMIT,
    LOGS_ATOMIC_FAILURES,  # a choice of the kernel: failures of atomic requests are logged, too
    TEMP_PAGES_READY,  # the temporary page array of the vm backing exists
    # percpu_stats
    STATS_ON,
    NR_ALLOC,
    NR_DEALLOC,
    NR_CUR_ALLOC,
    NR_MAX_ALLOC,
    NR_CHUNKS,
    NR_MAX_CHUNKS,
    MIN_ALLOC_SIZE,
    MAX_ALLOC_SIZE,
    # chunk rows
    FREE_ROW,  # handle of the first unused row, linked through LIST_NEXT; 0 when none
    NR_FREE_ROWS,
    NR_ORDER,  # chunks ever created (successful area requests)
    NR_POPULATED_TOTAL,  # pcpu_nr_populated: populated pages a unit, of all chunks
    # tracing
    EVENT_MASK,  # bit per EVENT_*
    RING_HEAD,  # events ever written
    RING_START,  # number of the first event after the last clear
    NR_FILTERED,
    # tables
    LOG_USED,
    ZERO_USED,
    # work counted, for comparisons; the FREE_ ones are the part that frees did
    CHUNKS_SCANNED,  # chunks that a search looked at
    ENTRIES_SCANNED,  # area map: entries that a search looked at
    ENTRIES_MOVED,  # area map: entries that were moved up or down
    BITS_SCANNED,  # bitmap: bits that a search passed over
    BLOCKS_SCANNED,  # bitmap: records of blocks that a search read
    FREE_ENTRIES_SCANNED,
    FREE_ENTRIES_MOVED,
    FREE_BITS_SCANNED,
    FREE_BLOCKS_SCANNED,
    MAX_POPULATED,  # the most that NR_POPULATED_TOTAL was
    NO_RECLAIM,  # a choice, bitmap: do without partial depopulation
    NR_FAILED,  # requests that got NULL, the illegal ones too
    HIST_USED,  # columns of the history in use
    # faults: left and skip for each FAULT_* kind
    FAULT_LEFT_MEM,
    FAULT_LEFT_VM,
    FAULT_LEFT_PAGE,
    FAULT_LEFT_PTMAP,
    FAULT_SKIP_MEM,
    FAULT_SKIP_VM,
    FAULT_SKIP_PAGE,
    FAULT_SKIP_PTMAP,
    NR_SCALARS,
) = range(75)

FAULT_MEM, FAULT_VM, FAULT_PAGE, FAULT_PTMAP, NR_FAULT_KINDS = range(5)
FAULT_KINDS = ("mem", "vm", "page", "ptmap")

# --- tables behind the scalars ----------------------------------------------
# log rows: op, LOG_* code, size, align, atomic, reason
LOG_OP, LOG_CODE, LOG_SIZE, LOG_ALIGN, LOG_ATOMIC, LOG_REASON, LOG_WORDS = range(7)
LOG_ILLEGAL, LOG_FAILED, LOG_LIMIT = range(3)
LOG_CAPACITY = 64
LOG_ROOM = 4  # rows one op may need
LOG_TABLE = NR_SCALARS

# areas to be zeroed by the owner of the memory: chunk handle, off, size
ZERO_WORDS = 3
ZERO_CAPACITY = 64
ZERO_TABLE = LOG_TABLE + LOG_CAPACITY * LOG_WORDS

# a filter program an event: its length, then its words (see ring.py)
FILTER_WORDS = 256
FILTER_TABLE = ZERO_TABLE + ZERO_CAPACITY * ZERO_WORDS
NR_GLOBAL_WORDS = FILTER_TABLE + 5 * FILTER_WORDS

# --- chunk rows --------------------------------------------------------------
(
    LIST_NEXT,
    LIST_PREV,
    EXTEND_NEXT,  # map_extend_list; -1 while on no list
    EXTEND_PREV,
    ROW,  # number of the row
    ORDINAL,  # 0 first chunk, -1 reserved chunk, k + 1 the k-th created one
    BASE,  # base_addr, relative to the first chunk's
    CHUNK_NR_ALLOC,
    CHUNK_MAX_ALLOC_SIZE,
    FREE_SIZE,
    CONTIG_HINT,
    FIRST_FREE,
    HAS_RESERVED,
    IMMUTABLE,
    MAP_USED,
    MAP_ALLOC,
    MAP,  # index of the chunk's map in `map`
    BIRTH,  # index of the chunk's row in `birth`
    NR_POPULATED,
    HAS_MEMORY,  # somebody looks at the memory behind this chunk
    CHANGED,  # op number of the last change of the map
    SAMPLED,  # op number at which the three values below were worked out
    LARGEST_FREE,
    SUM_FRAG,
    MAX_FRAG,
    NR_PAGES,
    CHUNK_NR_EMPTY_POP_PAGES,  # pages of this chunk that are populated and wholly free
    # of the bitmap only
    ISOLATED,
    START_OFFSET,  # hidden bytes at the beginning and at the end of a boot chunk
    END_OFFSET,
    BOUND_MAP,  # index of the chunk's bound_map in `map`; MAP is that of its alloc_map
    MD_BLOCKS,  # index in `chunk` of the first of its blocks' records
    CHUNK_MD,  # the chunk's own record of NR_MD_WORDS
) = range(33)

# a record of free runs (pcpu_block_md), in bits: of a block, or of a whole chunk
(
    MD_SCAN_HINT,
    MD_SCAN_HINT_START,
    MD_CONTIG_HINT,
    MD_CONTIG_HINT_START,
    MD_LEFT_FREE,
    MD_RIGHT_FREE,
    MD_FIRST_FREE,
    MD_NR_BITS,
    NR_MD_WORDS,
) = range(9)

POPULATED = CHUNK_MD + NR_MD_WORDS  # first of UNIT_PAGES words, 1 where the page is populated; bitmap: md_blocks behind

MAX_SLOTS = 46
EXTEND_HEAD_ROW = MAX_SLOTS
NR_LIST_HEADS = MAX_SLOTS + 1
SPARE_ROWS = 4  # rows one op may need
ZERO_ROOM = 1

# --- events ------------------------------------------------------------------
EVENT_ALLOC, EVENT_FREE, EVENT_FAIL, EVENT_CREATE, EVENT_DESTROY, NR_EVENTS = range(6)
(
    RING_OP,  # op number, -1 setup
    RING_EVENT,  # EVENT_*
    RING_CHUNK,  # ORDINAL of the chunk; NO_CHUNK for a failure
    RING_OFF,
    RING_SIZE,  # adjusted request size; of a free: that of the area's request
    RING_ALIGN,
    RING_FLAGS,  # FLAG_RESERVED | FLAG_ATOMIC | reason << REASON_SHIFT
    RING_BIRTH,  # of a free: op number of the area's allocation
    NR_RING_COLUMNS,
) = range(9)
NO_CHUNK = -2
FLAG_RESERVED, FLAG_ATOMIC, REASON_SHIFT = 1, 2, 8

# --- history -----------------------------------------------------------------
(
    HIST_OP,  # ops done when the sample was taken
    HIST_ORDINAL,
    HIST_FREE_BYTES,
    HIST_LARGEST_FREE_BYTES,
    HIST_SUM_FRAG,
    HIST_MAX_FRAG,
    HIST_NR_ALLOC,
    HIST_NR_POPULATED,
    NR_HIST_COLUMNS,
) = range(9)

# --- why a call stopped --------------------------------------------------------
(
    STATUS_OK,
    STATUS_NEED_ROWS,  # nothing was done: chunk rows or `order` must grow first
    STATUS_NEED_LOG,  # nothing was done: the log table must be drained first
    STATUS_NEED_ZERO,  # nothing was done: the zero queue must be drained first
    STATUS_SAMPLE,  # run_ops: the history wants a sample
    STATUS_HOST,  # run_ops: this op (stats, state) is for the caller
    STATUS_BUG_WALK,  # the v4.13 list walk ran out of its slot
    STATUS_BAD_FREE,  # no area in use begins there; nothing was changed
    STATUS_NO_CHUNK,  # no chunk is at that address; nothing was changed
    STATUS_STATIC,  # the address lies in the static or reserved prefix; nothing was changed
    STATUS_STALE,  # the area belongs to a later allocation; nothing was changed
) = range(11)

# --- why an allocation failed --------------------------------------------------
(
    REASON_NONE,
    REASON_ILLEGAL,
    REASON_RESERVED,
    REASON_EXTEND_RESERVED,
    REASON_EXTEND,
    REASON_ATOMIC,
    REASON_NEW_CHUNK,
    REASON_POPULATE,
) = range(8)
REASONS = (
    "",
    "illegal size or align",
    "alloc from reserved chunk failed",
    "failed to extend area map of reserved chunk",
    "failed to extend area map",
    "atomic alloc failed, no space left",
    "failed to allocate new chunk",
    "failed to populate",
)

# --- op scripts ------------------------------------------------------------------
OP_ALLOC, OP_FREE, OP_BALANCE, OP_STATS, OP_STATE, OP_FAULT, NR_OP_KINDS = range(7)
# columns of an op array: kind, id, size, align, flags; a fault has kind of fault, count, skip in id, size, align
OPS_KIND, OPS_ID, OPS_SIZE, OPS_ALIGN, OPS_FLAGS, NR_OPS_COLUMNS = range(6)
