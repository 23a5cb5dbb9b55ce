/* The compiled recording engine: every record is one C call that runs no Python between its lookup and its last write.
 *
 * Contents, in this order:
 *   platform    clock, memory mapping, memory barriers
 *   page        the memory of all numeric state: line log, allocator, sharing with other processes
 *   numbers     integers and compensated doubles
 *   states      what a page holds of a counter, gauge, distribution or outcome
 *   aggregates  immutable copies of states, as Python objects
 *   objects     Core, ErrorTypes, Slot, TagSet, Series and its kinds, SeriesIndex
 *   recording   counting into a series, its slot and its recent slot
 *   interface   Recorder, RunningTimers, OperationRecorder, RecordLog, PageReader
 *
 * Three rules hold everywhere:
 *
 * 1. Whatever may run Python (a clock, the owner of a series, a finder, an allocation that the garbage collector watches)
 *    runs before the last lookup of a series. From there to the last write there is no call that can run Python. The GIL
 *    makes a record one step for other threads; signal handlers, the garbage collector and finalizers run between steps.
 * 2. Each line of 64 bytes is put into the line log before it changes, in private memory, too: a reader of the same
 *    bytes in another process can take its copy back to the last finished record. New blocks are filled where no reader
 *    looks, and a logged change of an offset makes them visible.
 * 3. All-zero bytes are an empty state. References inside a page are offsets from its start.
 */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYOUT 3 /* of the page and of this interface; engine.py checks it */

#if defined(__GNUC__) || defined(__clang__)
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NOINLINE __attribute__((noinline))
#define PREFETCH(x) __builtin_prefetch(x)
#else
#define LIKELY(x) (x)
#define UNLIKELY(x) (x)
#define NOINLINE __declspec(noinline)
#define PREFETCH(x) ((void)(x))
#endif

/* ---- platform ------------------------------------------------------------------------------------------- */

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static int64_t
system_now(void)
{
    static LARGE_INTEGER frequency;
    LARGE_INTEGER ticks;
    if (frequency.QuadPart == 0)
        QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&ticks);
    return (ticks.QuadPart / frequency.QuadPart) * 1000000000LL +
           (ticks.QuadPart % frequency.QuadPart) * 1000000000LL / frequency.QuadPart;
}

static void *
reserve_range(size_t size)
{
    return VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS);
}

static int
commit_range(void *start, size_t size)
{
    return VirtualAlloc(start, size, MEM_COMMIT, PAGE_READWRITE) != NULL ? 0 : -1;
}

static void
release_range(void *start, size_t size)
{
    (void)size;
    VirtualFree(start, 0, MEM_RELEASE);
}

static void
zero_range(void *start, size_t size)
{
    memset(start, 0, size);
}

static int64_t
process_id(void)
{
    return (int64_t)GetCurrentProcessId();
}
#else
#define HAS_SHARING /* of pages with other processes */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The nanoseconds of a clock, or -1 if the system does not have it. */
static inline int64_t
clock_now(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) == 0 ? (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec : -1;
}

static inline int64_t
system_now(void)
{
    return clock_now(CLOCK_MONOTONIC);
}

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

static void *
reserve_range(size_t size)
{
    void *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static int
commit_range(void *start, size_t size)
{
    return mprotect(start, size, PROT_READ | PROT_WRITE);
}

static void
release_range(void *start, size_t size)
{
    munmap(start, size);
}

static void
zero_range(void *start, size_t size)
{
#ifdef __linux__
    if (madvise(start, size, MADV_DONTNEED) == 0) /* gives the memory back; it reads as zeros again */
        return;
#endif
    memset(start, 0, size);
}

static int64_t
process_id(void)
{
    return (int64_t)getpid();
}

/* Replace a part of a reserved range by private memory of zeros, whatever is mapped there. */
static int
private_range(void *start, size_t size)
{
    return mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
                   MAP_FAILED
               ? -1
               : 0;
}

/* Reserve `size` bytes at the end of a file. Writing to a page that is not reserved kills the process where the disk is
 * full, so a file is only mapped where this succeeded. Returns -1 with `errno`. */
static int
extend_file(int file, size_t end, size_t size)
{
    static const char zeros[4096];
    int error;
#ifdef __APPLE__
    fstore_t store = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, (off_t)size, 0};
    if (fcntl(file, F_PREALLOCATE, &store) == 0 && ftruncate(file, (off_t)(end + size)) == 0)
        return 0;
    error = errno;
#else
    int tries = 0;
    do /* a signal interrupts it on tmpfs; its handler runs in between */
        error = posix_fallocate(file, (off_t)end, (off_t)size);
    while (error == EINTR && tries++ < 1000);
#endif
    if (error == EINVAL || error == EOPNOTSUPP) { /* this file system reserves by writing */
        error = 0;
        for (size_t written = 0; written < size && error == 0; written += sizeof zeros)
            if (pwrite(file, zeros, sizeof zeros, (off_t)(end + written)) != (ssize_t)sizeof zeros)
                error = errno ? errno : ENOSPC;
    }
    if (error != 0 && ftruncate(file, (off_t)end) != 0)
        error = errno;
    errno = error;
    return error == 0 ? 0 : -1;
}
#endif

/* x86 keeps the order of stores, so its barriers only stop the compiler; other machines need a full fence between the
 * head of the line log and the writes that it covers. */
#if defined(_MSC_VER)
#include <intrin.h>
#if defined(_M_X64) || defined(_M_IX86)
#define ORDER_STORES() _ReadWriteBarrier()
#else
#define ORDER_STORES() __dmb(0xB)
#endif
#elif defined(__x86_64__) || defined(__i386__)
#define ORDER_STORES() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#else
#define ORDER_STORES() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* ---- page ----------------------------------------------------------------------------------------------- */

#define LINE 64
#define RING 1024 /* images of lines that the log holds */
#define MAGIC 0x65676170736D66ULL
#define BYTE_ORDER_WORD 0x0102030405060708ULL

typedef struct {
    uint64_t magic, layout, byte_order, line_size, ring_size, published_size, process, process_start;
    uint64_t boot[2], generation, worker, anchor_monotonic, anchor_wall, directory, spare;
    uint64_t counters[3], reserved[13]; /* see COUNTER_NAMES */
    /* Images in the log, how many of them belong to finished records, and the number of records of all series. */
    uint64_t head, done, records, alone[5];
    uint64_t spare_line[24];
} Header;

static const char *const COUNTER_NAMES[3] = {"rejected", "overflowed", "abandoned"};

#define RING_OFFSETS 512
#define RING_IMAGES (RING_OFFSETS + RING * 8)
#define HEAP_START (RING_IMAGES + RING * LINE)
#define RESERVED_BYTES ((size_t)4 << 30)
#define SMALLEST_RESERVE ((size_t)1 << 24)
#define GROWTH_BYTES 65536
#define MAX_GROWTH_BYTES 262144
#define LOG_MARGIN 32 /* more than the lines that one record changes: they are in the ring before `head` counts them */

/* Blocks are powers of two from 16 bytes to 64 KiB, and the three lines of a distribution. */
#define SMALLEST_CLASS 4
#define LARGEST_CLASS 16
#define STATE_CLASS 17
#define CLASSES 18
#define LARGEST_BLOCK 65536

typedef struct {
    uint64_t offset, freed_at;
} FreeBlock;

typedef struct {
    FreeBlock *blocks; /* a ring: the oldest first */
    uint32_t first, count, capacity;
} FreeList;

typedef struct Page {
    uint8_t *base;
    uint64_t head;
    uint64_t top; /* where the part begins that was never used */
    size_t reserved, committed, step;
    uint64_t used;
    FreeList free[CLASSES];
    uint64_t piece[2][2]; /* of 16 and 32 bytes: the next block in the line that is being cut, and its end */
    int file;             /* of a shared page; -1 if it is private */
    int is_full;          /* the file could not grow: memory past its end is private */
    size_t file_end;
    uint64_t share;               /* which sharing of this process the directory belongs to; 0: there is none */
    uint32_t wipes;               /* how often a fork replaced all bytes by zeros */
    struct Page *next, **previous; /* of all shared pages */
#ifdef METRICS_CORE_DEBUG
    uint8_t *shadow; /* the bytes after the last finished record, where lines are checked */
    size_t shadow_size;
    uint64_t checked_from;
    uint64_t *fresh; /* blocks given out since then: offset and size */
    size_t fresh_count, fresh_capacity;
#endif
} Page;

#define HEADER(page) ((Header *)(page)->base)
#define AT(page, offset) ((void *)((page)->base + (offset)))
#define OFFSET(page, pointer) ((uint64_t)((uint8_t *)(pointer) - (page)->base))

/* Make the next part of the range usable: a part of the file, or private memory. */
static int
page_grow(Page *page, size_t step)
{
    uint8_t *start = page->base + page->committed;
#ifdef HAS_SHARING
    if (page->file >= 0 && !page->is_full) {
        if (extend_file(page->file, page->committed, step) == 0) {
            if (mmap(start, step, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, page->file, (off_t)page->committed) !=
                MAP_FAILED) {
                page->file_end = page->committed + step;
                return 0;
            }
            int error = errno;
            (void)!ftruncate(page->file, (off_t)page->committed);
            errno = error;
        }
        if (page->committed == 0) /* not even the log has a place: it is not shared at all */
            return -1;
        page->is_full = 1;
        return private_range(start, step); /* a failed mapping may have left a hole */
    }
#endif
    return commit_range(start, step);
}

static int
page_commit(Page *page, size_t end)
{
    while (page->committed < end) {
        size_t step = page->step;
        if (page->committed + step > page->reserved)
            return -1;
        if (page_grow(page, step) != 0)
            return -1;
        page->committed += step;
        if (page->step < MAX_GROWTH_BYTES)
            page->step *= 2;
    }
    return 0;
}

static void
header_begin(Header *header)
{
    header->magic = MAGIC;
    header->layout = LAYOUT;
    header->byte_order = BYTE_ORDER_WORD;
    header->line_size = LINE;
    header->ring_size = RING;
    header->published_size = HEAP_START;
    header->process = (uint64_t)process_id();
}

static void
page_begin(Page *page)
{
    header_begin(HEADER(page));
    page->head = 0;
    page->top = HEAP_START;
    page->used = 0;
    memset(page->piece, 0, sizeof page->piece);
    for (int i = 0; i < CLASSES; i++)
        page->free[i].first = page->free[i].count = 0;
}

static int
page_open(Page *page)
{
    memset(page, 0, sizeof *page);
    page->file = -1;
    page->step = GROWTH_BYTES;
    for (page->reserved = RESERVED_BYTES; page->reserved >= SMALLEST_RESERVE; page->reserved /= 2) {
        page->base = reserve_range(page->reserved); /* a limit of address space may refuse the larger ones */
        if (page->base != NULL)
            break;
    }
    if (page->base == NULL)
        return -1;
    if (page_commit(page, HEAP_START) != 0) {
        release_range(page->base, page->reserved);
        page->base = NULL;
        return -1;
    }
    page_begin(page);
    return 0;
}

/* -- sharing: the same range, mapped from a file -- */

#ifdef HAS_SHARING
static Page *shared_pages;
static uint64_t shares; /* how often pages of this process were shared */

static void
page_unlist(Page *page)
{
    close(page->file);
    page->file = -1;
    page->is_full = 0;
    page->file_end = 0;
    *page->previous = page->next;
    if (page->next != NULL)
        page->next->previous = page->previous;
}

/* In a forked child, whatever code forks: leave the pages of the parent. All numbers begin at zero, as all-zero states
 * are empty; Python's own hooks reset the rest. Makes system calls only. */
static void
leave_pages_after_fork(void)
{
    while (shared_pages != NULL) {
        Page *page = shared_pages;
        size_t size = page->committed + page->step; /* another thread of the parent may just have mapped a part */
        if (private_range(page->base, size < page->reserved ? size : page->reserved) != 0)
            abort(); /* better than a child that writes to its parent's numbers */
        page_unlist(page);
        page->share = 0;
        page->wipes++;
        header_begin(HEADER(page));
#ifdef METRICS_CORE_DEBUG
        page->shadow = NULL; /* not freed: another thread of the parent may hold the allocator's lock */
        page->shadow_size = 0;
#endif
    }
}

/* Take a page that nothing was recorded into to a new file. Returns -1 with `errno`: then it is as before. */
static int
page_share(Page *page, const char *path)
{
    static int is_hooked;
    size_t committed = page->committed, step = page->step;
    if (!is_hooked && (errno = pthread_atfork(NULL, NULL, leave_pages_after_fork)) != 0)
        return -1;
    is_hooked = 1;
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return -1;
    page->file = file;
    page->committed = 0;
    page->step = GROWTH_BYTES;
    page->next = shared_pages; /* before the first mapping: a thread may fork */
    page->previous = &shared_pages;
    if (page->next != NULL)
        page->next->previous = &page->next;
    shared_pages = page;
    int failed = page_commit(page, HEAP_START) != 0 || page->is_full;
    if (failed) {
        int error = errno ? errno : ENOSPC;
        unlink(path);
        page_unlist(page);
        if (private_range(page->base, committed) != 0)
            abort(); /* there is no memory at this address any more */
        page->committed = committed;
        page->step = step;
        page_begin(page);
        errno = error;
        return -1;
    }
    page->share = ++shares;
    page_begin(page);
    return 0;
}

/* Go on in private memory: with the same numbers, or with zeros. Returns -1 without memory: then it is as before. */
static int
page_unshare(Page *page, int keeps_numbers)
{
    size_t size = page->file_end;
    uint8_t *copy = keeps_numbers ? malloc(size) : NULL;
    if (keeps_numbers && copy == NULL)
        return -1;
    if (keeps_numbers)
        memcpy(copy, page->base, size);
    if (private_range(page->base, size) != 0) {
        free(copy);
        return -1;
    }
    page_unlist(page);
    if (keeps_numbers)
        memcpy(page->base, copy, size);
    free(copy);
    return 0;
}
#endif

static void
page_close(Page *page)
{
#ifdef HAS_SHARING
    if (page->file >= 0)
        page_unlist(page);
#endif
    if (page->base != NULL)
        release_range(page->base, page->reserved);
    page->base = NULL;
    for (int i = 0; i < CLASSES; i++)
        free(page->free[i].blocks);
#ifdef METRICS_CORE_DEBUG
    free(page->shadow);
    free(page->fresh);
#endif
}

/* Put the image of a line into the log, before `page_publish` and before it changes. */
static inline void
touch(Page *page, const void *pointer)
{
    uint64_t offset = OFFSET(page, pointer) & ~(uint64_t)(LINE - 1);
    uint64_t place = page->head & (RING - 1);
    ((uint64_t *)AT(page, RING_OFFSETS))[place] = offset;
    memcpy(AT(page, RING_IMAGES + place * LINE), AT(page, offset), LINE);
    page->head++;
}

#ifdef METRICS_CORE_DEBUG
static void page_check(Page *page);
#endif

static inline void
page_publish(Page *page)
{
    ORDER_STORES();
    *(volatile uint64_t *)&HEADER(page)->head = page->head;
    ORDER_STORES();
}

static inline void
page_done(Page *page)
{
    ORDER_STORES();
    *(volatile uint64_t *)&HEADER(page)->done = page->head;
#ifdef METRICS_CORE_DEBUG
    page_check(page);
#endif
}

static inline size_t
class_size(int class)
{
    return class == STATE_CLASS ? 3 * LINE : (size_t)1 << class;
}

static int
class_of(size_t size)
{
    int class = SMALLEST_CLASS;
    if (size == 3 * LINE)
        return STATE_CLASS;
    while (((size_t)1 << class) < size)
        class++;
    return class;
}

static int
free_list_push(FreeList *list, uint64_t offset, uint64_t freed_at)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 16;
        FreeBlock *blocks = malloc(capacity * sizeof *blocks);
        if (blocks == NULL)
            return -1;
        for (uint32_t i = 0; i < list->count; i++)
            blocks[i] = list->blocks[(list->first + i) % list->capacity];
        free(list->blocks);
        list->blocks = blocks;
        list->first = 0;
        list->capacity = capacity;
    }
    list->blocks[(list->first + list->count) % list->capacity] = (FreeBlock){offset, freed_at};
    list->count++;
    return 0;
}

#ifdef METRICS_CORE_DEBUG
static int fail_after = -1; /* allocations until one fails; negative: none does */

static int
must_fail(void)
{
    return fail_after >= 0 && fail_after-- == 0;
}
#define MALLOC(size) (must_fail() ? NULL : malloc(size))
#define REALLOC(old, size) (must_fail() ? NULL : realloc(old, size))
#else
#define MALLOC(size) malloc(size)
#define REALLOC(old, size) realloc(old, size)
#endif

/* Return the offset of a block of zeros, or 0 where memory is at its end. */
static uint64_t
page_alloc(Page *page, int class)
{
    FreeList *list = &page->free[class];
    size_t size = class_size(class);
    uint64_t offset;
#ifdef METRICS_CORE_DEBUG
    if (must_fail())
        return 0;
#endif
    /* A reader may need the bytes of a freed block until the log has gone round once. */
    if (list->count && list->blocks[list->first].freed_at + RING + 8 <= page->head) {
        offset = list->blocks[list->first].offset;
        list->first = (list->first + 1) % list->capacity;
        list->count--;
        memset(AT(page, offset), 0, size);
    }
    else if (size < LINE) {
        uint64_t *piece = page->piece[class - SMALLEST_CLASS];
        if (piece[0] == piece[1]) { /* the line that small blocks of this size are cut from is used up */
            piece[0] = page_alloc(page, 6);
            piece[1] = piece[0] ? piece[0] + LINE : 0;
            if (piece[0] == 0)
                return 0;
            page->used -= LINE;
        }
        offset = piece[0];
        piece[0] += size;
    }
    else {
        offset = page->top;
        if (offset + size > page->committed && page_commit(page, offset + size) != 0)
            return 0;
        page->top += size;
        if (page->file < 0 || page->top <= page->file_end)
            *(volatile uint64_t *)&HEADER(page)->published_size = page->top;
    }
    page->used += size;
#ifdef METRICS_CORE_DEBUG
    if (page->shadow != NULL) {
        if (page->fresh_count + 2 > page->fresh_capacity) {
            page->fresh_capacity = page->fresh_capacity ? page->fresh_capacity * 2 : 64;
            page->fresh = realloc(page->fresh, page->fresh_capacity * sizeof *page->fresh);
        }
        page->fresh[page->fresh_count++] = offset;
        page->fresh[page->fresh_count++] = size;
    }
#endif
    return offset;
}

static void
page_free(Page *page, uint64_t offset, int class)
{
    if (offset == 0)
        return;
    page->used -= class_size(class);
    (void)free_list_push(&page->free[class], offset, page->head);
}

/* ---- numbers -------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t i;
    double d;
    int is_int;
} Number;

/* A sum: integers exactly in `integer`, the rest in `real` with its rounding error in `error`. */
enum { HAS_REAL = 1, OVERFLOWED = 2 };

typedef struct {
    int64_t integer;
    double real, error;
    unsigned flags;
} Sum;

static inline int
add_overflows(int64_t a, int64_t b, int64_t *result)
{
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_add_overflow(a, b, result);
#else
    if ((b > 0 && a > INT64_MAX - b) || (b < 0 && a < INT64_MIN - b))
        return 1;
    *result = a + b;
    return 0;
#endif
}

/* Neumaier 1974; past the largest double a sum is infinite and stays so. */
static inline void
add_real(double *total, double *error, double value)
{
    double sum = *total + value;
    if (LIKELY(isfinite(sum))) {
        *error += fabs(*total) >= fabs(value) ? (*total - sum) + value : (value - sum) + *total;
        *total = sum;
    }
    else if (!isnan(sum)) {
        *total = sum;
        *error = 0.0;
    }
}

static void
add_integer_as_real(double *total, double *error, int64_t value)
{
    double high = (double)value;
    add_real(total, error, high);
    if (high < 9223372036854775808.0) /* else it is 2**63, and `value` is one below it at most by rounding */
        add_real(total, error, (double)(value - (int64_t)high));
    else
        add_real(total, error, (double)(value - INT64_MAX) - 1.0);
}

static inline void
add_integer(int64_t *integer, double *real, double *error, unsigned *flags, int64_t value)
{
    int64_t sum;
    if (LIKELY(!(*flags & OVERFLOWED))) {
        if (LIKELY(!add_overflows(*integer, value, &sum))) {
            *integer = sum;
            return;
        }
        *flags |= OVERFLOWED;
        add_integer_as_real(real, error, *integer);
        *integer = 0;
    }
    add_integer_as_real(real, error, value);
}

static void
sum_merge(Sum *sum, const Sum *other)
{
    sum->flags |= other->flags & HAS_REAL;
    if (other->flags & OVERFLOWED && !(sum->flags & OVERFLOWED)) {
        sum->flags |= OVERFLOWED;
        add_integer_as_real(&sum->real, &sum->error, sum->integer);
        sum->integer = 0;
    }
    add_integer(&sum->integer, &sum->real, &sum->error, &sum->flags, other->integer);
    add_real(&sum->real, &sum->error, other->real);
    if (!isinf(sum->real))
        sum->error += other->error;
}

static void
sum_negate(Sum *sum)
{
    if (sum->integer == INT64_MIN) {
        sum->flags |= OVERFLOWED;
        add_integer_as_real(&sum->real, &sum->error, sum->integer);
        sum->integer = 0;
    }
    sum->integer = -sum->integer;
    sum->real = -sum->real;
    sum->error = -sum->error;
}

static inline int
sum_is_integer(const Sum *sum)
{
    return !(sum->flags & (HAS_REAL | OVERFLOWED));
}

static double
sum_real(const Sum *sum)
{
    double total = sum->real, error = sum->error;
    if (sum->integer != 0)
        add_integer_as_real(&total, &error, sum->integer);
    return isinf(total) ? total : total + error;
}

static PyObject *
sum_value(const Sum *sum)
{
    return sum_is_integer(sum) ? PyLong_FromLongLong(sum->integer) : PyFloat_FromDouble(sum_real(sum));
}

/* A number in one word. A flag elsewhere states its kind. */
static inline uint64_t
word_of(Number number)
{
    uint64_t word;
    if (number.is_int)
        return (uint64_t)number.i;
    memcpy(&word, &number.d, 8);
    return word;
}

static inline double
word_real(uint64_t word, int is_int)
{
    double real;
    if (is_int)
        return (double)(int64_t)word;
    memcpy(&real, &word, 8);
    return real;
}

static inline Number
word_number(uint64_t word, int is_int)
{
    Number number = {is_int ? (int64_t)word : 0, word_real(word, is_int), is_int != 0};
    return number;
}

static PyObject *
number_object(Number number)
{
    return number.is_int ? PyLong_FromLongLong(number.i) : PyFloat_FromDouble(number.d);
}

static PyObject *
word_object(uint64_t word, int is_int)
{
    return number_object(word_number(word, is_int));
}

/* Compare a double with an integer that a double may not hold. */
static int
compare_real_integer(double real, int64_t integer)
{
    if (real >= 9223372036854775808.0)
        return 1;
    if (real < -9223372036854775808.0)
        return -1;
    int64_t whole = (int64_t)real;
    if (whole != integer)
        return whole < integer ? -1 : 1;
    return real > (double)whole ? 1 : real < (double)whole ? -1 : 0;
}

static inline int
is_less(Number a, Number b)
{
    if (a.is_int == b.is_int)
        return a.is_int ? a.i < b.i : a.d < b.d;
    return a.is_int ? compare_real_integer(b.d, a.i) > 0 : compare_real_integer(a.d, b.i) < 0;
}

static inline Number
integer_number(int64_t value)
{
    Number number = {value, (double)value, 1};
    return number;
}

static inline Number
real_number(double value)
{
    Number number = {0, value, 0};
    return number;
}

/* Take a plain int or finite float. Return 0 for any other value, which the owner of the series checks. */
static inline int
exact_number(PyObject *object, Number *number)
{
    if (Py_TYPE(object) == &PyFloat_Type) {
        double value = PyFloat_AsDouble(object);
        *number = real_number(value);
        return isfinite(value);
    }
    if (Py_TYPE(object) == &PyLong_Type) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
        *number = integer_number(value);
        return !overflow;
    }
    return 0;
}

/* Take a number that may be infinite; an int of any size becomes a double past 64 bits. Returns -1 with an error. */
static int
any_number(PyObject *object, Number *number)
{
    double value;
    if (exact_number(object, number))
        return 0;
    value = PyFloat_AsDouble(object);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    *number = real_number(value);
    return 0;
}

/* Take a number that the owner checked. One that is not finite would spoil all later numbers, so it is an error. */
static int
checked_number(PyObject *object, Number *number)
{
    if (any_number(object, number) != 0)
        return -1;
    if (isfinite(number->d))
        return 0;
    PyErr_Format(PyExc_ValueError, "%R is not finite", object);
    return -1;
}

/* ---- states --------------------------------------------------------------------------------------------- */

enum { COUNTER, GAUGE, DISTRIBUTION, OUTCOME, KINDS };
static const char *const KIND_NAMES[KINDS] = {"counter", "gauge", "distribution", "outcome"};

#define EXACT_VALUES 128
#define SCALE 6
#define MAX_INDEXES 5120
#define BOUNDS_WORDS 8 /* before the counts: a `BoundsSum` */

typedef struct {
    uint64_t count;
    int64_t integer;
    double real, error;
    int64_t last_ns, created_ns;
    uint64_t flags, exemplar;
} CounterState;

enum { STARTED = 1, LAST_INT = 2, MIN_INT = 4, MAX_INT = 8, FIRST_INT = 16, STEPPED = 32 };

typedef struct {
    uint64_t records, last, min, max;
    double integral; /* value times nanoseconds, from the first record to the last */
    uint64_t first;
    int64_t first_ns, last_ns;
    uint64_t flags;
    int64_t created_ns;
    uint64_t exemplar, spare[5];
} GaugeState;

/* Counts of consecutive buckets, from the one with index `low` on: as many as fit into the block. While the values of a
 * distribution are kept as they are, `positive.block` holds them instead. */
typedef struct {
    uint64_t block;
    int32_t low;
    uint8_t width, class; /* bytes of a count, and the size of the block */
    uint16_t spare;
} Cells;

/* The sum of the values that are counted by bounds, if counting began later than the distribution. */
typedef struct {
    int64_t integer;
    double real, error;
    uint64_t flags, began_later, number, spare[2]; /* the number of bounds */
} BoundsSum;

enum { VALUES_INT_MIN = 4, VALUES_INT_MAX = 8, BUCKETED = 16 }; /* beside HAS_REAL and OVERFLOWED */

typedef struct {
    uint64_t count;
    int64_t integer;
    double real, error;
    uint64_t min, max;
    double mean, squares; /* sum of squared distances from the mean, in units of 2 ** (2 * exponent) */
    /* second line: changes seldom */
    Cells positive, negative;
    uint64_t bounds, zeros;
    uint32_t flags;
    int16_t exponent;
    uint8_t halvings, bounds_class;
    uint32_t last_second, spare;
    /* third line: changes with failures */
    uint64_t failures;
    int64_t created_ns;
    uint64_t exemplars, reserved[5];
} DistributionState;

typedef struct {
    uint64_t successes, failures;
    uint64_t block; /* failures by error type */
    uint64_t class;
    int64_t last_ns, created_ns;
    uint64_t flags, exemplar;
} OutcomeState;

static const size_t STATE_SIZES[KINDS] = {sizeof(CounterState), sizeof(GaugeState), sizeof(DistributionState),
                                          sizeof(OutcomeState)};

typedef char assert_counter[sizeof(CounterState) == LINE ? 1 : -1];
typedef char assert_gauge[sizeof(GaugeState) == 2 * LINE ? 1 : -1];
typedef char assert_distribution[sizeof(DistributionState) == 3 * LINE ? 1 : -1];
typedef char assert_outcome[sizeof(OutcomeState) == LINE ? 1 : -1];
typedef char assert_bounds[sizeof(BoundsSum) == 8 * BOUNDS_WORDS ? 1 : -1];
typedef char assert_header[sizeof(Header) == RING_OFFSETS ? 1 : -1];

static uint64_t
state_records(int kind, const void *state)
{
    if (state == NULL)
        return 0;
    if (kind == OUTCOME)
        return ((const OutcomeState *)state)->successes + ((const OutcomeState *)state)->failures;
    return *(const uint64_t *)state;
}

static void
state_free_blocks(Page *page, int kind, const void *state)
{
    if (kind == DISTRIBUTION) {
        const DistributionState *d = state;
        page_free(page, d->positive.block, d->positive.class);
        page_free(page, d->negative.block, d->negative.class);
        page_free(page, d->bounds, d->bounds_class);
    }
    else if (kind == OUTCOME) {
        const OutcomeState *o = state;
        page_free(page, o->block, (int)o->class);
    }
}

/* -- gauges -- */

/* The effect of a value on a gauge, worked out before the first write. */
typedef struct {
    Number value;
    unsigned flags;
    int is_first, is_min, is_max;
} GaugeChange;

static inline GaugeChange
gauge_change(const GaugeState *g, Number value, unsigned extra)
{
    unsigned before = (unsigned)g->flags, ints = value.is_int ? ~0u : 0;
    GaugeChange change = {value, before | extra | STARTED, !(before & STARTED), 0, 0};
    unsigned set = LAST_INT;
    if (change.is_first)
        set |= MIN_INT | MAX_INT | FIRST_INT;
    else {
        change.is_min = is_less(value, word_number(g->min, before & MIN_INT));
        change.is_max = is_less(word_number(g->max, before & MAX_INT), value);
        set |= (change.is_min ? MIN_INT : 0) | (change.is_max ? MAX_INT : 0);
    }
    change.flags = (change.flags & ~set) | (set & ints);
    return change;
}

static inline void
gauge_apply(GaugeState *g, const GaugeChange *change, int64_t now, int counts)
{
    uint64_t word = word_of(change->value);
    if (UNLIKELY(change->is_first)) {
        g->min = g->max = g->first = word;
        g->first_ns = g->last_ns = now;
        g->created_ns = now > 0 ? now : 1;
    }
    else {
        if (now > g->last_ns) { /* a thread may have read an injected clock before another one recorded */
            g->integral += word_real(g->last, g->flags & LAST_INT) * (double)(now - g->last_ns);
            g->last_ns = now;
        }
        if (change->is_min)
            g->min = word;
        if (change->is_max)
            g->max = word;
    }
    g->last = word;
    if (g->flags != change->flags)
        g->flags = change->flags;
    g->records += (uint64_t)counts;
}

/* Whether a gauge has a value already. */
static inline int
gauge_is_at(const GaugeState *g, Number value)
{
    return g->last == word_of(value) && (g->flags & (STARTED | LAST_INT)) == (STARTED | (value.is_int ? LAST_INT : 0));
}

/* Whether a value is of the same kind as all that a gauge had, and between its extremes: then its flags and extremes stay. */
static inline int
gauge_spans(const GaugeState *g, Number value)
{
    uint64_t kinds = value.is_int ? LAST_INT | MIN_INT | MAX_INT : 0;
    if ((g->flags & (STARTED | LAST_INT | MIN_INT | MAX_INT)) != (STARTED | kinds))
        return 0;
    if (value.is_int)
        return (int64_t)g->min <= value.i && value.i <= (int64_t)g->max;
    return word_real(g->min, 0) <= value.d && value.d <= word_real(g->max, 0);
}

/* `gauge_apply` for such a value. */
static inline void
gauge_apply_spanned(GaugeState *g, Number value, int64_t now)
{
    if (now > g->last_ns) {
        g->integral += word_real(g->last, value.is_int) * (double)(now - g->last_ns);
        g->last_ns = now;
    }
    g->last = word_of(value);
    g->records++;
}

static Number
gauge_moved(Number from, Number step)
{
    int64_t sum;
    double real;
    if (from.is_int && step.is_int && !add_overflows(from.i, step.i, &sum))
        return integer_number(sum);
    real = from.d + step.d;
    if (real > DBL_MAX)
        real = DBL_MAX;
    if (real < -DBL_MAX)
        real = -DBL_MAX;
    return real_number(real);
}

/* -- distributions -- */

static inline int32_t
bucket_index(double magnitude, int halvings)
{
    double per_octave = (double)(1 << SCALE);
    if (UNLIKELY(halvings))
        per_octave = ldexp(1.0, SCALE - halvings);
    return (int32_t)ceil(log2(magnitude) * per_octave) - 1;
}

static inline double
bucket_middle(int32_t index, int halvings)
{
    double exponent = exp2((double)(halvings - SCALE));
    return exp2(index * exponent) * ((1 + exp2(exponent)) / 2);
}

static inline uint64_t
cell_get(const uint8_t *cells, int width, int64_t place)
{
    uint16_t half;
    uint32_t word;
    uint64_t wide;
    switch (width) {
    case 1:
        return cells[place];
    case 2:
        memcpy(&half, cells + 2 * place, 2);
        return half;
    case 4:
        memcpy(&word, cells + 4 * place, 4);
        return word;
    default:
        memcpy(&wide, cells + 8 * place, 8);
        return wide;
    }
}

static inline void
cell_set(uint8_t *cells, int width, int64_t place, uint64_t count)
{
    uint16_t half = (uint16_t)count;
    uint32_t word = (uint32_t)count;
    switch (width) {
    case 1:
        cells[place] = (uint8_t)count;
        break;
    case 2:
        memcpy(cells + 2 * place, &half, 2);
        break;
    case 4:
        memcpy(cells + 4 * place, &word, 4);
        break;
    default:
        memcpy(cells + 8 * place, &count, 8);
    }
}

static inline uint64_t
width_limit(int width)
{
    return width == 8 ? UINT64_MAX : ((uint64_t)1 << (8 * width)) - 1;
}

static inline int
width_for(uint64_t count)
{
    return count <= 0xFF ? 1 : count <= 0xFFFF ? 2 : count <= 0xFFFFFFFF ? 4 : 8;
}

/* A row of counts in any memory, without empty ones at its ends. */
typedef struct {
    const uint8_t *cells;
    int width;
    int32_t low, length;
} Row;

static Row
row_trimmed(const uint8_t *cells, int width, int32_t low, int32_t length)
{
    int32_t start = 0;
    while (start < length && cell_get(cells, width, start) == 0)
        start++;
    while (length > start && cell_get(cells, width, length - 1) == 0)
        length--;
    Row row = {cells + (size_t)start * (size_t)width, width, low + start, length - start};
    if (row.length == 0)
        row.low = 0;
    return row;
}

/* Return the counts in a block, which may be a copy; NULL if there is none. */
static Row
block_row(const Cells *cells, const uint8_t *block)
{
    Row none = {NULL, 1, 0, 0};
    if (block == NULL)
        return none;
    return row_trimmed(block, cells->width, cells->low, (int32_t)(class_size(cells->class) / cells->width));
}

static Row
cells_row(Page *page, const Cells *cells)
{
    return block_row(cells, cells->block ? AT(page, cells->block) : NULL);
}

static uint64_t
row_peak(const Row *row)
{
    uint64_t peak = 0;
    for (int32_t i = 0; i < row->length; i++) {
        uint64_t count = cell_get(row->cells, row->width, i);
        if (count > peak)
            peak = count;
    }
    return peak;
}

/* Arithmetic shift: the bucket of half the resolution. */
static inline int32_t
halved(int32_t index, int steps)
{
    return steps >= 31 ? (index < 0 ? -1 : 0) : index >= 0 ? index >> steps : -((-index - 1) >> steps) - 1;
}

static inline int32_t
row_span(const Row *row, int steps)
{
    return row->length ? halved(row->low + row->length - 1, steps) - halved(row->low, steps) + 1 : 0;
}

/* Update mean and squared deviation where doubles overflow or underflow on the way: everything is scaled by the largest
 * magnitude that occurs. */
static NOINLINE void
deviate_scaled(DistributionState *d, double value, double count)
{
    double largest = fabs(value);
    double low = word_real(d->min, d->flags & VALUES_INT_MIN), high = word_real(d->max, d->flags & VALUES_INT_MAX);
    int exponent = 0;
    if (fabs(d->mean) > largest)
        largest = fabs(d->mean);
    if (count > 1 && fabs(low) > largest)
        largest = fabs(low);
    if (count > 1 && fabs(high) > largest)
        largest = fabs(high);
    if (largest > 0)
        (void)frexp(largest, &exponent);
    if (exponent > -400 && exponent < 400)
        exponent = 0;
    double scaled = ldexp(value, -exponent), mean = ldexp(d->mean, -exponent);
    double squares = ldexp(d->squares, 2 * (d->exponent - exponent));
    double apart = scaled - mean;
    double next = mean + apart / count;
    d->squares = squares + apart * (scaled - next);
    d->mean = ldexp(next, exponent);
    d->exponent = (int16_t)exponent;
}

/* Welford 1962; `count` includes the value. */
static inline void
deviate(DistributionState *d, double value, double count)
{
    double apart = value - d->mean;
    double next = d->mean + apart / count;
    double square = apart * (value - next);
    if (count == 1) {
        d->mean = value;
        return;
    }
    if (UNLIKELY(d->exponent != 0 || !(square <= 1e280) || (square < 1e-280 && apart != 0.0))) {
        deviate_scaled(d, value, count);
        return;
    }
    d->mean = next;
    d->squares += square;
}

static double
state_stddev(const DistributionState *d)
{
    return d->count ? ldexp(sqrt(d->squares / (double)d->count), d->exponent) : 0.0;
}

/* How many buckets fit into a block. A block may have room for more than a distribution may span: without the limit,
 * a value in that room would be counted at a resolution that is no longer allowed. */
static inline int32_t
cells_capacity(int class, int width)
{
    size_t capacity = class_size(class) / (size_t)width;
    return capacity < MAX_INDEXES ? (int32_t)capacity : MAX_INDEXES;
}

/* Make room for a count at `index`, in a block of its own until the change of the state shows it. Returns -1 where
 * memory is at its end. The caller has made sure that all fits into MAX_INDEXES. */
static NOINLINE int
cells_grow(Page *page, DistributionState *d, Cells *cells, int32_t index)
{
    Row row = cells_row(page, cells);
    int32_t low = row.length && row.low < index ? row.low : index;
    int32_t high = row.length && row.low + row.length - 1 > index ? row.low + row.length - 1 : index;
    int32_t length = high - low + 1;
    int width = cells->block ? cells->width : 1;
    uint64_t peak = row_peak(&row);
    if (index >= row.low && index < row.low + row.length) {
        uint64_t count = cell_get(row.cells, row.width, index - row.low) + 1;
        if (count > peak)
            peak = count;
    }
    if (width_for(peak) > width)
        width = width_for(peak);
    int class = class_of((size_t)length * (size_t)width);
    int32_t slack = cells_capacity(class, width) - length;
    uint64_t block = page_alloc(page, class);
    if (block == 0)
        return -1;
    int32_t begin = low - (row.length && index == low ? slack : row.length && index == high ? 0 : slack / 2);
    for (int32_t i = 0; i < row.length; i++)
        cell_set(AT(page, block), width, row.low + i - begin, cell_get(row.cells, row.width, i));
    uint64_t old = cells->block;
    int old_class = cells->class;
    touch(page, &d->positive);
    page_publish(page);
    cells->block = block;
    cells->low = begin;
    cells->width = (uint8_t)width;
    cells->class = (uint8_t)class;
    page_done(page);
    page_free(page, old, old_class);
    return 0;
}

/* Fill new cells with a row at a lower resolution. Returns -1 where memory is at its end. */
static int
cells_coarser(Page *page, const Cells *from, int steps, Cells *to)
{
    Row row = cells_row(page, from);
    memset(to, 0, sizeof *to);
    if (row.length == 0)
        return 0;
    int32_t length = row_span(&row, steps), low = halved(row.low, steps);
    uint64_t peak = row_peak(&row); /* times 2 ** steps at most */
    for (int i = 0; i < steps && peak < ((uint64_t)1 << 62); i++)
        peak *= 2;
    to->width = (uint8_t)width_for(peak);
    to->class = (uint8_t)class_of((size_t)length * to->width);
    to->low = low;
    to->block = page_alloc(page, to->class);
    if (to->block == 0)
        return -1;
    for (int32_t i = 0; i < row.length; i++) {
        int32_t place = halved(row.low + i, steps) - low;
        uint8_t *cells = AT(page, to->block);
        cell_set(cells, to->width, place,
                 cell_get(cells, to->width, place) + cell_get(row.cells, row.width, i));
    }
    return 0;
}

/* Lower the resolution until the buckets of one sign and `index`, at the present resolution, fit into MAX_INDEXES. */
static NOINLINE int
distribution_halve(Page *page, DistributionState *d, Cells *cells, int32_t index)
{
    Row row = cells_row(page, cells);
    int steps = 0;
    int32_t low = row.length && row.low < index ? row.low : index;
    int32_t high = row.length && row.low + row.length - 1 > index ? row.low + row.length - 1 : index;
    while (halved(high, steps) - halved(low, steps) + 1 > MAX_INDEXES)
        steps++;
    if (steps == 0)
        return 0;
    Cells positive, negative, old_positive = d->positive, old_negative = d->negative;
    if (cells_coarser(page, &d->positive, steps, &positive) != 0)
        return -1;
    if (cells_coarser(page, &d->negative, steps, &negative) != 0) {
        page_free(page, positive.block, positive.class);
        return -1;
    }
    touch(page, &d->positive);
    page_publish(page);
    d->positive = positive;
    d->negative = negative;
    d->halvings = (uint8_t)(d->halvings + steps);
    page_done(page);
    page_free(page, old_positive.block, old_positive.class);
    page_free(page, old_negative.block, old_negative.class);
    return 0;
}

static int
compare_real(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Count values into one sign's cells of a new block; `sign` is 1 or -1. Zeros are the caller's. */
static int
cells_of_values(Page *page, const double *values, int number, double sign, int *halvings, Cells *cells)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    memset(cells, 0, sizeof *cells);
    for (int i = 0; i < number; i++)
        if (values[i] * sign > 0) {
            int32_t index = bucket_index(fabs(values[i]), *halvings);
            low = index < low ? index : low;
            high = index > high ? index : high;
        }
    if (low > high)
        return 0;
    int steps = 0;
    while (halved(high, steps) - halved(low, steps) + 1 > MAX_INDEXES)
        steps++;
    *halvings += steps;
    low = halved(low, steps);
    high = halved(high, steps);
    cells->low = low;
    cells->width = 1; /* 128 values at most */
    cells->class = (uint8_t)class_of((size_t)(high - low + 1));
    cells->block = page_alloc(page, cells->class);
    if (cells->block == 0)
        return -1;
    uint8_t *bytes = AT(page, cells->block);
    for (int i = 0; i < number; i++)
        if (values[i] * sign > 0)
            bytes[bucket_index(fabs(values[i]), *halvings) - low]++;
    return 0;
}

/* Move the exact values of a distribution into buckets. */
static NOINLINE int
distribution_to_buckets(Page *page, DistributionState *d)
{
    const double *values = AT(page, d->positive.block);
    Cells positive, negative, old = d->positive;
    int number = (int)d->count, halvings = 0, before;
    uint64_t zeros = 0;
    for (int i = 0; i < number; i++)
        zeros += values[i] == 0.0;
    do { /* again where the second sign needs a lower resolution than the first */
        before = halvings;
        if (cells_of_values(page, values, number, 1.0, &halvings, &positive) != 0)
            return -1;
        int after = halvings;
        if (cells_of_values(page, values, number, -1.0, &halvings, &negative) != 0) {
            page_free(page, positive.block, positive.class);
            return -1;
        }
        if (halvings == after)
            break;
        page_free(page, positive.block, positive.class);
        page_free(page, negative.block, negative.class);
    } while (halvings != before);
    touch(page, &d->positive);
    page_publish(page);
    d->positive = positive;
    d->negative = negative;
    d->zeros = zeros;
    d->halvings = (uint8_t)halvings;
    d->flags |= BUCKETED;
    page_done(page);
    page_free(page, old.block, old.class);
    return 0;
}

static int
exact_grow(Page *page, DistributionState *d)
{
    Cells old = d->positive;
    size_t size = old.block ? 2 * class_size(old.class) : 16;
    int class = class_of(size);
    uint64_t block = page_alloc(page, class);
    if (block == 0)
        return -1;
    if (old.block)
        memcpy(AT(page, block), AT(page, old.block), class_size(old.class));
    touch(page, &d->positive);
    page_publish(page);
    d->positive.block = block;
    d->positive.class = (uint8_t)class;
    page_done(page);
    page_free(page, old.block, old.class);
    return 0;
}

/* Where a value is counted. */
typedef struct {
    DistributionState *state;
    uint8_t *cell; /* in which its value or count goes; NULL for a zero in buckets */
    int width;     /* of the count; 0 for an exact value */
    int32_t place;
    uint64_t *bound;      /* the count of its bounds, if there are any */
    BoundsSum *bound_sum; /* their sum, if it is not that of the distribution */
} Place;

#define NO_INDEX INT32_MIN

/* Find the place of a value, and make it where need be. Returns -1 where memory is at its end: nothing was counted.
 * `index` keeps the bucket at full resolution for the next distribution; `NO_INDEX` at first. */
static inline int
distribution_place(Page *page, DistributionState *d, double value, int32_t *index, Place *place)
{
    place->state = d;
    place->bound = NULL;
    place->bound_sum = NULL;
    if (!(d->flags & BUCKETED)) {
        if (d->count < EXACT_VALUES) {
            if (d->positive.block == 0 || d->count * 8 >= class_size(d->positive.class))
                if (exact_grow(page, d) != 0)
                    return -1;
            place->cell = (uint8_t *)AT(page, d->positive.block) + d->count * 8;
            place->width = 0;
            place->place = 0;
            return 0;
        }
        if (distribution_to_buckets(page, d) != 0)
            return -1;
    }
    if (value == 0.0) {
        place->cell = NULL;
        return 0;
    }
    for (;;) {
        Cells *cells = value > 0 ? &d->positive : &d->negative;
        if (*index == NO_INDEX)
            *index = bucket_index(fabs(value), 0);
        int32_t bucket = LIKELY(!d->halvings) ? *index : halved(*index, d->halvings);
        if (LIKELY(cells->block != 0)) {
            int64_t at = (int64_t)bucket - cells->low;
            if (LIKELY(at >= 0 && at < cells_capacity(cells->class, cells->width))) {
                uint8_t *bytes = AT(page, cells->block);
                if (LIKELY(cell_get(bytes, cells->width, at) < width_limit(cells->width))) {
                    place->cell = bytes;
                    place->width = cells->width;
                    place->place = (int32_t)at;
                    return 0;
                }
            }
        }
        uint8_t halvings = d->halvings;
        if (distribution_halve(page, d, cells, bucket) != 0)
            return -1;
        if (halvings == d->halvings && cells_grow(page, d, cells, bucket) != 0)
            return -1;
    }
}

/* -- bounds: counts that an application chose the edges of -- */

static inline size_t
bound_place(const double *bounds, size_t number, double value)
{
    size_t low = 0, high = number;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (bounds[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Count by bounds what a distribution holds: exact values exactly, buckets by their middle. */
static void
bounds_seed(Page *page, const DistributionState *d, const double *bounds, size_t number, uint64_t *counts)
{
    if (!(d->flags & BUCKETED)) {
        const double *values = d->positive.block ? AT(page, d->positive.block) : NULL;
        for (uint64_t i = 0; i < d->count; i++)
            counts[bound_place(bounds, number, values[i])]++;
        return;
    }
    double least = word_real(d->min, d->flags & VALUES_INT_MIN), most = word_real(d->max, d->flags & VALUES_INT_MAX);
    for (int sign = 0; sign < 2; sign++) {
        Row row = cells_row(page, sign ? &d->negative : &d->positive);
        for (int32_t i = 0; i < row.length; i++) {
            uint64_t count = cell_get(row.cells, row.width, i);
            if (count) {
                double middle = bucket_middle(row.low + i, d->halvings);
                middle = sign ? -middle : middle;
                middle = middle < least ? least : middle > most ? most : middle;
                counts[bound_place(bounds, number, middle)] += count;
            }
        }
    }
    if (d->zeros)
        counts[bound_place(bounds, number, 0.0)] += d->zeros;
}

/* Give a distribution its counts by bounds: seeded from its values, or from zero with a sum of their own. */
static NOINLINE int
bounds_begin(Page *page, DistributionState *d, const double *bounds, size_t number, int seed)
{
    int class = class_of((BOUNDS_WORDS + number + 1) * 8);
    uint64_t block = page_alloc(page, class);
    if (block == 0)
        return -1;
    uint64_t *words = AT(page, block);
    ((BoundsSum *)words)->number = number;
    if (seed)
        bounds_seed(page, d, bounds, number, words + BOUNDS_WORDS);
    else
        ((BoundsSum *)words)->began_later = 1;
    uint64_t old = d->bounds;
    int old_class = d->bounds_class;
    touch(page, &d->positive);
    page_publish(page);
    d->bounds = block;
    d->bounds_class = (uint8_t)class;
    page_done(page);
    page_free(page, old, old_class);
    return 0;
}

static void
bounds_drop(Page *page, DistributionState *d)
{
    uint64_t old = d->bounds;
    int old_class = d->bounds_class;
    if (old == 0)
        return;
    touch(page, &d->positive);
    page_publish(page);
    d->bounds = 0;
    page_done(page);
    page_free(page, old, old_class);
}

static inline void
distribution_touch(Page *page, const Place *place, int failed)
{
    const DistributionState *d = place->state;
    touch(page, d);
    touch(page, &d->positive);
    if (place->cell != NULL)
        touch(page, place->cell + (size_t)place->place * (size_t)place->width);
    if (failed || d->count == 0)
        touch(page, &d->failures);
    if (place->bound != NULL)
        touch(page, place->bound);
    if (place->bound_sum != NULL)
        touch(page, place->bound_sum);
}

static inline void
distribution_count(const Place *place, Number value, int64_t now, uint32_t second, int failed)
{
    DistributionState *d = place->state;
    unsigned flags = d->flags;
    if (place->cell == NULL)
        d->zeros++;
    else if (place->width == 0)
        memcpy(place->cell, &value.d, 8);
    else
        cell_set(place->cell, place->width, place->place, cell_get(place->cell, place->width, place->place) + 1);
    if (d->count == 0) {
        d->min = d->max = word_of(value);
        flags |= value.is_int ? VALUES_INT_MIN | VALUES_INT_MAX : 0;
        d->created_ns = now > 0 ? now : 1;
    }
    else {
        if (is_less(value, word_number(d->min, flags & VALUES_INT_MIN))) {
            d->min = word_of(value);
            flags = value.is_int ? flags | VALUES_INT_MIN : flags & ~(unsigned)VALUES_INT_MIN;
        }
        if (is_less(word_number(d->max, flags & VALUES_INT_MAX), value)) {
            d->max = word_of(value);
            flags = value.is_int ? flags | VALUES_INT_MAX : flags & ~(unsigned)VALUES_INT_MAX;
        }
    }
    d->count++;
    if (d->flags != flags)
        d->flags = flags; /* of the extremes, which the deviation may need */
    deviate(d, value.d, (double)d->count);
    if (value.is_int)
        add_integer(&d->integer, &d->real, &d->error, &flags, value.i);
    else {
        flags |= HAS_REAL;
        add_real(&d->real, &d->error, value.d);
    }
    if (d->flags != flags)
        d->flags = flags;
    if (d->last_second < second)
        d->last_second = second;
    if (failed)
        d->failures++;
    if (place->bound != NULL)
        ++*place->bound;
    if (place->bound_sum != NULL) {
        BoundsSum *sum = place->bound_sum;
        flags = (unsigned)sum->flags;
        if (value.is_int)
            add_integer(&sum->integer, &sum->real, &sum->error, &flags, value.i);
        else {
            flags |= HAS_REAL;
            add_real(&sum->real, &sum->error, value.d);
        }
        sum->flags = flags;
    }
}

/* ---- aggregates ----------------------------------------------------------------------------------------- */

typedef struct {
    PyTypeObject *core, *error_types, *slot, *tag_set, *series, *counter_series, *gauge_series, *histogram_series,
        *timer_series, *outcome_series, *stopwatch, *name_entry, *index, *recorder, *timers, *operations, *log,
        *account, *reader, *counter, *gauge, *distribution, *outcome;
    PyObject *milliseconds, *seconds, *microseconds; /* members of MetricUnit */
    PyObject *timing_result, *unknown_timer_error, *pending;
    PyObject *s_name, *s_value, *s_tags, *s_unit, *s_duration, *s_step, *s_metadata, *s_success, *s_operation_name,
        *s_timer_id, *s_error_type, *s_milliseconds, *s_number, *s_readmit, *s_find, *s_find_step, *s_find_timing,
        *s_find_outcomes, *s_count_abandoned, *s_plain_metadata, *s_counter, *s_gauge, *s_histogram, *s_timer,
        *s_index, *s_operation, *s_elapsed_ns;
    int64_t latest_ns; /* the latest time that was read */
    int has_ticks;     /* the kernel tells when it ticked last, by the same clock */
} State;

static void
plain_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define TYPE_ERROR_UNLESS(object, type, text)                                                                          \
    if (Py_TYPE(object) != (type)) {                                                                                   \
        PyErr_Format(PyExc_TypeError, text ", not %R", object);                                                        \
        return NULL;                                                                                                   \
    }

/* -- CounterAggregate -- */

typedef struct {
    PyObject_HEAD
    uint64_t records_and_flags; /* the flags of the sum in the two highest bits: 48 bytes are a size of the allocator */
    int64_t integer;
    double real, error;
} CounterAggregate;

#define COUNTER_RECORDS(a) ((a)->records_and_flags & (UINT64_MAX >> 2))
#define COUNTER_FLAGS(a) ((unsigned)((a)->records_and_flags >> 62))

static Sum
counter_sum(const CounterAggregate *a)
{
    Sum sum = {a->integer, a->real, a->error, COUNTER_FLAGS(a)};
    return sum;
}

static PyObject *
counter_new(PyTypeObject *type, uint64_t records, const Sum *sum)
{
    CounterAggregate *self = (CounterAggregate *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->records_and_flags = (records & (UINT64_MAX >> 2)) | (uint64_t)(sum->flags & 3) << 62;
    self->integer = sum->integer;
    self->real = sum->real;
    self->error = sum->error;
    return (PyObject *)self;
}

static PyObject *
counter_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"records", "integer", "real", "error", "flags", NULL};
    unsigned long long records = 0;
    long long integer = 0;
    Sum sum = {0, 0.0, 0.0, 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|KLddI:CounterAggregate", names, &records, &integer, &sum.real,
                                     &sum.error, &sum.flags))
        return NULL;
    sum.integer = integer;
    return counter_new(type, records, &sum);
}

static PyObject *
counter_merge(CounterAggregate *self, PyObject *later)
{
    TYPE_ERROR_UNLESS(later, Py_TYPE((PyObject *)self), "a CounterAggregate merges with another one");
    CounterAggregate *other = (CounterAggregate *)later;
    Sum sum = counter_sum(self), more = counter_sum(other);
    sum_merge(&sum, &more);
    return counter_new(Py_TYPE((PyObject *)self), COUNTER_RECORDS(self) + COUNTER_RECORDS(other), &sum);
}

static PyObject *
counter_subtract(CounterAggregate *self, PyObject *earlier)
{
    TYPE_ERROR_UNLESS(earlier, Py_TYPE((PyObject *)self), "a CounterAggregate is subtracted from another one");
    CounterAggregate *other = (CounterAggregate *)earlier;
    Sum sum = counter_sum(self), less = counter_sum(other);
    if (isinf(less.real)) /* later additions to an infinite sum had no effect */
        sum = (Sum){0, 0.0, 0.0, HAS_REAL};
    else {
        sum_negate(&less);
        sum_merge(&sum, &less);
    }
    return counter_new(Py_TYPE((PyObject *)self), COUNTER_RECORDS(self) - COUNTER_RECORDS(other), &sum);
}

static PyObject *
counter_records(CounterAggregate *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(COUNTER_RECORDS(self));
}

static PyObject *
counter_value(CounterAggregate *self, void *closure)
{
    Sum sum = counter_sum(self);
    return sum_value(&sum);
}

static PyObject *
counter_is_exact(CounterAggregate *self, void *closure)
{
    return PyBool_FromLong(!(COUNTER_FLAGS(self) & OVERFLOWED));
}

static PyObject *
counter_fields(CounterAggregate *self)
{
    return Py_BuildValue("(KLddI)", (unsigned long long)COUNTER_RECORDS(self), (long long)self->integer, self->real,
                         self->error, COUNTER_FLAGS(self));
}

/* Every aggregate is compared, copied and pickled by the tuple of its fields. */
static PyObject *
compare_fields(PyObject *self, PyObject *other, int op, PyObject *(*fields)(PyObject *))
{
    PyObject *mine, *theirs, *result;
    if (Py_TYPE(self) != Py_TYPE(other) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    mine = fields(self);
    theirs = mine ? fields(other) : NULL;
    result = theirs ? PyObject_RichCompare(mine, theirs, op) : NULL;
    Py_XDECREF(mine);
    Py_XDECREF(theirs);
    return result;
}

static PyObject *
reduce_fields(PyObject *self, PyObject *fields)
{
    return fields == NULL ? NULL : Py_BuildValue("(ON)", (PyObject *)Py_TYPE(self), fields);
}

/* An immutable object is its own copy. */
static PyObject *
same_object(PyObject *self, PyObject *unused)
{
    return Py_NewRef(self);
}

#define COPY_METHODS {"__copy__", same_object, METH_NOARGS, NULL}, {"__deepcopy__", same_object, METH_O, NULL}

static PyObject *
repr_attributes(PyObject *self, const char *name, const char *first, const char *second)
{
    PyObject *a = PyObject_GetAttrString(self, first), *b = a ? PyObject_GetAttrString(self, second) : NULL;
    PyObject *text = b ? PyUnicode_FromFormat("<%s %s=%R %s=%R>", name, first, a, second, b) : NULL;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return text;
}

static PyObject *
counter_compare(PyObject *self, PyObject *other, int op)
{
    return compare_fields(self, other, op,(PyObject * (*)(PyObject *)) counter_fields);
}

static PyObject *
counter_reduce(PyObject *self, PyObject *unused)
{
    return reduce_fields(self, counter_fields((CounterAggregate *)self));
}

static PyObject *
counter_repr(PyObject *self)
{
    return repr_attributes(self, "CounterAggregate", "records", "value");
}

static PyMethodDef counter_methods[] = {
    {"merge", (PyCFunction)counter_merge, METH_O,
     "merge($self, later, /)\n--\n\nReturn the sum of both."},
    {"subtract", (PyCFunction)counter_subtract, METH_O,
     "subtract($self, earlier, /)\n--\n\nReturn this sum without an earlier part of it."},
    {"__reduce__", counter_reduce, METH_NOARGS, NULL},
    COPY_METHODS,
    {NULL},
};

static PyGetSetDef counter_getset[] = {
    {"records", (getter)counter_records, NULL, "The number of additions.", NULL},
    {"value", (getter)counter_value, NULL, "The sum; an int as long as only integers were added and it fits 64 bits.",
     NULL},
    {"is_exact", (getter)counter_is_exact, NULL, "Whether integers are summed exactly: false past 64 bits.", NULL},
    {NULL},
};

static PyType_Slot counter_slots[] = {
    {Py_tp_doc, "CounterAggregate(records=0, integer=0, real=0.0, error=0.0, flags=0)\n--\n\n"
                "The additions to a counter: their number and their sum. Immutable."},
    {Py_tp_new, counter_tp_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, counter_methods},
    {Py_tp_getset, counter_getset},
    {Py_tp_richcompare, counter_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, counter_repr},
    {0, NULL},
};

static PyType_Spec counter_spec = {"metrics_framework.recording._core.CounterAggregate", sizeof(CounterAggregate), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, counter_slots};

/* -- GaugeAggregate -- */

enum { LATEST, SUM, MIN, MAX, LAWS };
static const char *const LAW_NAMES[LAWS] = {"latest", "sum", "min", "max"};

/* Return the law of a name, or -1 with an error that calls it `argument`. */
static int
law_of_name(PyObject *name, const char *argument)
{
    for (int law = LATEST; PyUnicode_Check(name) && law < LAWS; law++)
        if (PyUnicode_CompareWithASCIIString(name, LAW_NAMES[law]) == 0)
            return law;
    PyErr_Format(PyExc_ValueError, "%s=%R is not 'latest', 'sum', 'min' or 'max'", argument, name);
    return -1;
}

typedef struct {
    PyObject_HEAD
    uint64_t records, last, min, max, first;
    int64_t first_ns, last_ns;
    double integral;
    unsigned flags;
} GaugeAggregate;

static GaugeAggregate *
gauge_alloc(PyTypeObject *type)
{
    GaugeAggregate *self = (GaugeAggregate *)PyType_GenericAlloc(type, 0);
    if (self != NULL)
        self->flags = LAST_INT | MIN_INT | MAX_INT | FIRST_INT;
    return self;
}

/* Copy a state into an aggregate, which may be on the stack. */
static void
gauge_fill(GaugeAggregate *self, const GaugeState *g)
{
    self->records = g->records;
    self->last = g->last;
    self->min = g->min;
    self->max = g->max;
    self->first = g->first;
    self->first_ns = g->first_ns;
    self->last_ns = g->last_ns;
    self->integral = g->integral;
    self->flags = (unsigned)g->flags;
}

static PyObject *
gauge_of_state(PyTypeObject *type, const GaugeState *g)
{
    GaugeAggregate *self = gauge_alloc(type);
    if (self != NULL)
        gauge_fill(self, g);
    return (PyObject *)self;
}

static PyObject *
gauge_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"records",  "last",    "min",      "max",        "first",
                            "first_ns", "last_ns", "integral", "is_stepped", NULL};
    unsigned long long records = 0;
    long long first_ns = -1, last_ns = 0;
    double integral = 0.0;
    int is_stepped = 0;
    PyObject *last = NULL, *min = NULL, *max = NULL, *first = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|KOOOOLLdp:GaugeAggregate", names, &records, &last, &min, &max,
                                     &first, &first_ns, &last_ns, &integral, &is_stepped))
        return NULL;
    Number numbers[4] = {integer_number(0), integer_number(0), integer_number(0), integer_number(0)};
    PyObject *given[4] = {last, min, max, first};
    for (int i = 0; i < 4; i++)
        if (given[i] != NULL && checked_number(given[i], &numbers[i]) != 0)
            return NULL;
    GaugeAggregate *self = gauge_alloc(type);
    if (self == NULL)
        return NULL;
    self->records = records;
    self->last = word_of(numbers[0]);
    self->min = word_of(numbers[1]);
    self->max = word_of(numbers[2]);
    self->first = word_of(numbers[3]);
    self->first_ns = first_ns;
    self->last_ns = last_ns;
    self->integral = integral;
    self->flags = (numbers[0].is_int ? LAST_INT : 0) | (numbers[1].is_int ? MIN_INT : 0) |
                  (numbers[2].is_int ? MAX_INT : 0) | (numbers[3].is_int ? FIRST_INT : 0) |
                  (first_ns >= 0 ? STARTED : 0) | (is_stepped ? STEPPED : 0);
    return (PyObject *)self;
}

static PyObject *
gauge_merge(GaugeAggregate *self, PyObject *object)
{
    TYPE_ERROR_UNLESS(object, Py_TYPE((PyObject *)self), "a GaugeAggregate merges with another one");
    GaugeAggregate *later = (GaugeAggregate *)object, *merged;
    if (!(later->flags & STARTED))
        return Py_NewRef((PyObject *)self);
    if (!(self->flags & STARTED))
        return Py_NewRef(object);
    merged = gauge_alloc(Py_TYPE((PyObject *)self));
    if (merged == NULL)
        return NULL;
    int from_later_min = is_less(word_number(later->min, later->flags & MIN_INT),
                                 word_number(self->min, self->flags & MIN_INT));
    int from_later_max = is_less(word_number(self->max, self->flags & MAX_INT),
                                 word_number(later->max, later->flags & MAX_INT));
    merged->records = self->records + later->records;
    merged->last = later->last;
    merged->min = from_later_min ? later->min : self->min;
    merged->max = from_later_max ? later->max : self->max;
    merged->first = self->first;
    merged->first_ns = self->first_ns;
    merged->last_ns = later->last_ns;
    merged->integral =
        self->integral +
        word_real(self->last, self->flags & LAST_INT) * (double)(later->first_ns - self->last_ns) + later->integral;
    merged->flags = STARTED | (later->flags & LAST_INT) | (self->flags & FIRST_INT) |
                    ((from_later_min ? later : self)->flags & MIN_INT) |
                    ((from_later_max ? later : self)->flags & MAX_INT) | ((self->flags | later->flags) & STEPPED);
    return (PyObject *)merged;
}

/* The difference of times, also of those that only a test makes up: it never overflows. */
static int64_t
ns_between(int64_t start, int64_t end)
{
    return (int64_t)((uint64_t)end - (uint64_t)start);
}

/* Return value times nanoseconds from the first record to a moment. */
static double
gauge_integral_to(const GaugeAggregate *a, int64_t end_ns)
{
    return a->integral + word_real(a->last, a->flags & LAST_INT) * (double)ns_between(a->last_ns, end_ns);
}

/* Return the time-weighted average from the first record to a moment. */
static double
gauge_average(const GaugeAggregate *a, int64_t end_ns)
{
    int64_t span = ns_between(a->first_ns, end_ns);
    return span <= 0 ? word_real(a->last, a->flags & LAST_INT) : gauge_integral_to(a, end_ns) / (double)span;
}

static Number
number_sum(Number a, Number b)
{
    int64_t sum;
    if (a.is_int && b.is_int && !add_overflows(a.i, b.i, &sum))
        return integer_number(sum);
    double real = a.d + b.d;
    return real_number(real > DBL_MAX ? DBL_MAX : real < -DBL_MAX ? -DBL_MAX : real);
}

/* Combine one of the four values of two aggregates; the bit tells whether it is an int. */
static void
combine_number(GaugeAggregate *to, uint64_t *word, unsigned bit, Number number)
{
    *word = word_of(number);
    to->flags |= number.is_int ? bit : 0;
}

/* A gauge that is summed counts as 0 before its first value. */
static Number
before_first(Number extreme, int is_late, int is_high)
{
    Number zero = integer_number(0);
    return is_late && (is_high ? is_less(extreme, zero) : is_less(zero, extreme)) ? zero : extreme;
}

/* Combine aggregates of one gauge in two processes. Both are started. Writes all fields but the object's head. */
static void
gauge_combine_into(GaugeAggregate *to, const GaugeAggregate *mine, const GaugeAggregate *theirs, int law)
{
    const GaugeAggregate *both[2] = {mine, theirs};
    Number last[2], low[2], high[2], first[2];
    for (int i = 0; i < 2; i++) {
        last[i] = word_number(both[i]->last, both[i]->flags & LAST_INT);
        low[i] = word_number(both[i]->min, both[i]->flags & MIN_INT);
        high[i] = word_number(both[i]->max, both[i]->flags & MAX_INT);
        first[i] = word_number(both[i]->first, both[i]->flags & FIRST_INT);
    }
    int64_t first_ns = theirs->first_ns < mine->first_ns ? theirs->first_ns : mine->first_ns;
    int64_t last_ns = theirs->last_ns > mine->last_ns ? theirs->last_ns : mine->last_ns;
    double integral;
    if (law == SUM) {
        int early = theirs->first_ns < mine->first_ns, is_late[2];
        for (int i = 0; i < 2; i++)
            is_late[i] = both[i]->first_ns > first_ns;
        last[0] = number_sum(last[0], last[1]);
        first[0] = is_late[0] || is_late[1] ? first[early] : number_sum(first[0], first[1]);
        low[0] = number_sum(before_first(low[0], is_late[0], 0), before_first(low[1], is_late[1], 0));
        high[0] = number_sum(before_first(high[0], is_late[0], 1), before_first(high[1], is_late[1], 1));
        /* A sum of integers is exact, but one with a float is rounded. */
        low[0] = is_less(last[0], low[0]) ? last[0] : low[0];
        high[0] = is_less(high[0], last[0]) ? last[0] : high[0];
        integral = gauge_integral_to(mine, last_ns) + gauge_integral_to(theirs, last_ns);
    }
    else {
        if (law == LATEST) {
            last[0] = last[theirs->last_ns > mine->last_ns];
            first[0] = first[theirs->first_ns < mine->first_ns];
        }
        else {
            last[0] = last[law == MIN ? is_less(last[1], last[0]) : is_less(last[0], last[1])];
            first[0] = first[law == MIN ? is_less(first[1], first[0]) : is_less(first[0], first[1])];
        }
        low[0] = low[is_less(low[1], low[0])];
        high[0] = high[is_less(high[0], high[1])];
        /* Weighted by the number of records: then the order in which several processes are combined does not matter. */
        uint64_t my_weight = mine->records ? mine->records : 1, their_weight = theirs->records ? theirs->records : 1;
        double weight = (double)(my_weight + their_weight);
        double average = gauge_average(mine, last_ns) * ((double)my_weight / weight) +
                         gauge_average(theirs, last_ns) * ((double)their_weight / weight);
        integral = average * (double)ns_between(first_ns, last_ns);
    }
    uint64_t records = mine->records + theirs->records;
    to->flags = STARTED | ((mine->flags | theirs->flags) & STEPPED);
    to->records = records;
    combine_number(to, &to->last, LAST_INT, last[0]);
    combine_number(to, &to->min, MIN_INT, low[0]);
    combine_number(to, &to->max, MAX_INT, high[0]);
    combine_number(to, &to->first, FIRST_INT, first[0]);
    to->first_ns = first_ns;
    to->last_ns = last_ns;
    to->integral = integral;
}

static PyObject *
gauge_combined(GaugeAggregate *self, GaugeAggregate *other, int law)
{
    if (!(other->flags & STARTED))
        return Py_NewRef((PyObject *)self);
    if (!(self->flags & STARTED))
        return Py_NewRef((PyObject *)other);
    GaugeAggregate *combined = gauge_alloc(Py_TYPE((PyObject *)self));
    if (combined != NULL)
        gauge_combine_into(combined, self, other, law);
    return (PyObject *)combined;
}

static PyObject *
gauge_combine(GaugeAggregate *self, PyObject *args)
{
    PyObject *other, *name;
    if (!PyArg_ParseTuple(args, "OO:combine", &other, &name))
        return NULL;
    TYPE_ERROR_UNLESS(other, Py_TYPE((PyObject *)self), "a GaugeAggregate combines with another one");
    int law = law_of_name(name, "law");
    return law < 0 ? NULL : gauge_combined(self, (GaugeAggregate *)other, law);
}

static PyObject *
gauge_records(GaugeAggregate *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(self->records);
}

static PyObject *
gauge_number(GaugeAggregate *self, void *closure)
{
    switch ((int)(intptr_t)closure) {
    case LAST_INT:
        return word_object(self->last, self->flags & LAST_INT);
    case MIN_INT:
        return word_object(self->min, self->flags & MIN_INT);
    case MAX_INT:
        return word_object(self->max, self->flags & MAX_INT);
    default:
        return word_object(self->first, self->flags & FIRST_INT);
    }
}

static PyObject *
gauge_first_ns(GaugeAggregate *self, void *closure)
{
    return PyLong_FromLongLong(self->flags & STARTED ? self->first_ns : -1);
}

static PyObject *
gauge_last_ns(GaugeAggregate *self, void *closure)
{
    return PyLong_FromLongLong(self->last_ns);
}

static PyObject *
gauge_integral(GaugeAggregate *self, void *closure)
{
    return PyFloat_FromDouble(self->integral);
}

static PyObject *
gauge_is_stepped(GaugeAggregate *self, void *closure)
{
    return PyBool_FromLong(self->flags & STEPPED);
}

static PyObject *
gauge_fields(PyObject *object)
{
    GaugeAggregate *self = (GaugeAggregate *)object;
    return Py_BuildValue("(KNNNNLLdN)", (unsigned long long)self->records,
                         word_object(self->last, self->flags & LAST_INT),
                         word_object(self->min, self->flags & MIN_INT), word_object(self->max, self->flags & MAX_INT),
                         word_object(self->first, self->flags & FIRST_INT),
                         (long long)(self->flags & STARTED ? self->first_ns : -1), (long long)self->last_ns,
                         self->integral, PyBool_FromLong(self->flags & STEPPED));
}

static PyObject *
gauge_compare(PyObject *self, PyObject *other, int op)
{
    return compare_fields(self, other, op, gauge_fields);
}

static PyObject *
gauge_reduce(PyObject *self, PyObject *unused)
{
    return reduce_fields(self, gauge_fields(self));
}

static PyObject *
gauge_repr(PyObject *self)
{
    return repr_attributes(self, "GaugeAggregate", "records", "last");
}

static PyMethodDef gauge_methods[] = {
    {"merge", (PyCFunction)gauge_merge, METH_O,
     "merge($self, later, /)\n--\n\nReturn this time series continued by a later one."},
    {"combine", (PyCFunction)gauge_combine, METH_VARARGS,
     "combine($self, other, law, /)\n--\n\nReturn one gauge of two that other processes record at the same time.\n\n"
     "Args:\n    other: The other one.\n"
     "    law: 'sum' adds the values; a gauge counts as 0 before its first record, and the extremes are bounds of the sum.\n"
     "        'latest' takes the value of the later record, 'min' and 'max' the smaller or larger value; the average is\n"
     "        weighted by records."},
    {"__reduce__", gauge_reduce, METH_NOARGS, NULL},
    COPY_METHODS,
    {NULL},
};

static PyGetSetDef gauge_getset[] = {
    {"records", (getter)gauge_records, NULL, "The number of records.", NULL},
    {"last", (getter)gauge_number, NULL, "The last value.", (void *)LAST_INT},
    {"min", (getter)gauge_number, NULL, "The smallest value.", (void *)MIN_INT},
    {"max", (getter)gauge_number, NULL, "The largest value.", (void *)MAX_INT},
    {"first", (getter)gauge_number, NULL, "The first value.", (void *)FIRST_INT},
    {"first_ns", (getter)gauge_first_ns, NULL, "The time of the first value in nanoseconds; -1 if there is none.",
     NULL},
    {"last_ns", (getter)gauge_last_ns, NULL, "The time of the last value in nanoseconds.", NULL},
    {"integral", (getter)gauge_integral, NULL, "Value times nanoseconds, from the first record to the last.", NULL},
    {"is_stepped", (getter)gauge_is_stepped, NULL, "Whether it was ever incremented or decremented.", NULL},
    {NULL},
};

static PyType_Slot gauge_slots[] = {
    {Py_tp_doc, "GaugeAggregate(records=0, last=0, min=0, max=0, first=0, first_ns=-1, last_ns=0, integral=0.0, "
                "is_stepped=False)\n--\n\nThe values of a gauge and how long it stayed at each. Immutable."},
    {Py_tp_new, gauge_tp_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, gauge_methods},
    {Py_tp_getset, gauge_getset},
    {Py_tp_richcompare, gauge_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, gauge_repr},
    {0, NULL},
};

static PyType_Spec gauge_spec = {"metrics_framework.recording._core.GaugeAggregate", sizeof(GaugeAggregate), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, gauge_slots};

/* -- Distribution -- */

typedef struct {
    PyObject_VAR_HEAD /* the size is that of `data` in bytes */
    uint64_t count;
    int64_t integer;
    double real, error;
    uint64_t min, max;
    double mean, stddev;
    uint64_t failures, zeros;
    int32_t positive_low, positive_length, negative_low, negative_length;
    uint16_t flags;
    uint8_t halvings, positive_width, negative_width;
    double data[1]; /* the values as they are, or the counts of positive buckets, then of negative ones */
} Distribution;

#define DATA_OFFSET offsetof(Distribution, data)

static Sum
distribution_sum_of(const Distribution *d)
{
    Sum sum = {d->integer, d->real, d->error, d->flags & (HAS_REAL | OVERFLOWED)};
    return sum;
}

static Row
distribution_row(const Distribution *d, int negative)
{
    const uint8_t *cells = (const uint8_t *)d->data;
    Row row;
    if (!(d->flags & BUCKETED)) {
        Row none = {NULL, 1, 0, 0};
        return none;
    }
    if (negative) {
        row.cells = cells + (size_t)d->positive_length * d->positive_width;
        row.width = d->negative_width;
        row.low = d->negative_low;
        row.length = d->negative_length;
    }
    else {
        row.cells = cells;
        row.width = d->positive_width;
        row.low = d->positive_low;
        row.length = d->positive_length;
    }
    return row;
}

/* Everything but the data; `values` or the rows follow. */
static Distribution *
distribution_alloc(PyTypeObject *type, size_t bytes)
{
    return (Distribution *)PyType_GenericAlloc(type, (Py_ssize_t)bytes);
}

static Distribution *
distribution_of_values(PyTypeObject *type, const double *values, size_t number)
{
    Distribution *self = distribution_alloc(type, number * 8);
    if (self != NULL && number)
        memcpy(self->data, values, number * 8);
    return self;
}

static void
row_copy(const Row *row, uint8_t *to, int width)
{
    if (row->width == width) {
        if (row->length)
            memcpy(to, row->cells, (size_t)row->length * (size_t)width);
        return;
    }
    for (int32_t i = 0; i < row->length; i++)
        cell_set(to, width, i, cell_get(row->cells, row->width, i));
}

static Distribution *
distribution_of_rows(PyTypeObject *type, const Row *positive, const Row *negative, uint64_t zeros, int halvings)
{
    int positive_width = width_for(row_peak(positive)), negative_width = width_for(row_peak(negative));
    size_t first = (size_t)positive->length * (size_t)positive_width;
    Distribution *self = distribution_alloc(type, first + (size_t)negative->length * (size_t)negative_width);
    if (self == NULL)
        return NULL;
    row_copy(positive, (uint8_t *)self->data, positive_width);
    row_copy(negative, (uint8_t *)self->data + first, negative_width);
    self->positive_low = positive->low;
    self->positive_length = positive->length;
    self->positive_width = (uint8_t)positive_width;
    self->negative_low = negative->low;
    self->negative_length = negative->length;
    self->negative_width = (uint8_t)negative_width;
    self->zeros = zeros;
    self->halvings = (uint8_t)halvings;
    self->flags = BUCKETED;
    return self;
}

/* Return the aggregate of a state and its two blocks, which may be copies. */
static PyObject *
distribution_of_blocks(PyTypeObject *type, const DistributionState *d, const uint8_t *above, const uint8_t *below)
{
    Distribution *self;
    if (d->flags & BUCKETED) {
        Row positive = block_row(&d->positive, above), negative = block_row(&d->negative, below);
        self = distribution_of_rows(type, &positive, &negative, d->zeros, d->halvings);
    }
    else
        self = distribution_of_values(type, (const double *)above, (size_t)d->count);
    if (self == NULL)
        return NULL;
    self->count = d->count;
    self->integer = d->integer;
    self->real = d->real;
    self->error = d->error;
    self->min = d->min;
    self->max = d->max;
    self->mean = d->mean;
    self->stddev = state_stddev(d);
    self->failures = d->failures;
    self->flags |= (uint16_t)(d->flags & (HAS_REAL | OVERFLOWED | VALUES_INT_MIN | VALUES_INT_MAX));
    return (PyObject *)self;
}

static PyObject *
distribution_of_page(PyTypeObject *type, Page *page, const DistributionState *d)
{
    return distribution_of_blocks(type, d, d->positive.block ? AT(page, d->positive.block) : NULL,
                                  d->negative.block ? AT(page, d->negative.block) : NULL);
}

/* Counts that are being worked out. */
typedef struct {
    uint64_t *cells;
    int32_t low, length;
} Wide;

static int
wide_from_row(Wide *wide, const Row *row)
{
    wide->low = row->low;
    wide->length = row->length;
    wide->cells = MALLOC((size_t)(row->length ? row->length : 1) * 8);
    if (wide->cells == NULL)
        return -1;
    for (int32_t i = 0; i < row->length; i++)
        wide->cells[i] = cell_get(row->cells, row->width, i);
    return 0;
}

static int
wide_from_values(Wide *wide, const double *values, size_t number, double sign)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (size_t i = 0; i < number; i++)
        if (values[i] * sign > 0) {
            int32_t index = bucket_index(fabs(values[i]), 0);
            low = index < low ? index : low;
            high = index > high ? index : high;
        }
    wide->low = low > high ? 0 : low;
    wide->length = low > high ? 0 : high - low + 1;
    wide->cells = MALLOC((size_t)(wide->length ? wide->length : 1) * 8);
    if (wide->cells == NULL)
        return -1;
    memset(wide->cells, 0, (size_t)wide->length * 8);
    for (size_t i = 0; i < number; i++)
        if (values[i] * sign > 0)
            wide->cells[bucket_index(fabs(values[i]), 0) - wide->low]++;
    return 0;
}

static void
wide_halve(Wide *wide, int steps)
{
    if (steps == 0 || wide->length == 0)
        return;
    int32_t low = halved(wide->low, steps), high = halved(wide->low + wide->length - 1, steps);
    for (int32_t i = 0; i < wide->length; i++) {
        uint64_t count = wide->cells[i];
        wide->cells[i] = 0; /* its place is at most i */
        wide->cells[halved(wide->low + i, steps) - low] += count;
    }
    wide->low = low;
    wide->length = high - low + 1;
}

static int
wide_add(Wide *wide, const Wide *other)
{
    if (other->length == 0)
        return 0;
    if (wide->length == 0) {
        uint64_t *cells = REALLOC(wide->cells, (size_t)other->length * 8);
        if (cells == NULL)
            return -1;
        memcpy(cells, other->cells, (size_t)other->length * 8);
        wide->cells = cells;
        wide->low = other->low;
        wide->length = other->length;
        return 0;
    }
    int32_t low = wide->low < other->low ? wide->low : other->low;
    int32_t mine = wide->low + wide->length, theirs = other->low + other->length;
    int32_t length = (mine > theirs ? mine : theirs) - low;
    uint64_t *cells = MALLOC((size_t)length * 8);
    if (cells == NULL)
        return -1;
    memset(cells, 0, (size_t)length * 8);
    memcpy(cells + (wide->low - low), wide->cells, (size_t)wide->length * 8);
    for (int32_t i = 0; i < other->length; i++)
        cells[other->low - low + i] += other->cells[i];
    free(wide->cells);
    wide->cells = cells;
    wide->low = low;
    wide->length = length;
    return 0;
}

static Row
wide_row(const Wide *wide)
{
    return row_trimmed((const uint8_t *)wide->cells, 8, wide->low, wide->length);
}

static int
wide_excess(const Wide *wide)
{
    int steps = 0;
    if (wide->length)
        while (halved(wide->low + wide->length - 1, steps) - halved(wide->low, steps) + 1 > MAX_INDEXES)
            steps++;
    return steps;
}

/* Both signs of a distribution as counts, at its own scale. */
typedef struct {
    Wide positive, negative;
    uint64_t zeros;
    int halvings;
} Counted;

static void
counted_free(Counted *counted)
{
    free(counted->positive.cells);
    free(counted->negative.cells);
}

static void
counted_halve(Counted *counted, int steps)
{
    wide_halve(&counted->positive, steps);
    wide_halve(&counted->negative, steps);
    counted->halvings += steps;
}

static void
counted_bound(Counted *counted)
{
    int positive = wide_excess(&counted->positive), negative = wide_excess(&counted->negative);
    counted_halve(counted, positive > negative ? positive : negative);
}

static int
count_values(Counted *counted, const double *values, size_t number)
{
    memset(counted, 0, sizeof *counted);
    for (size_t i = 0; i < number; i++)
        counted->zeros += values[i] == 0.0;
    if (wide_from_values(&counted->positive, values, number, 1.0) != 0 ||
        wide_from_values(&counted->negative, values, number, -1.0) != 0) {
        counted_free(counted);
        return -1;
    }
    counted_bound(counted);
    return 0;
}

static int
count_distribution(Counted *counted, const Distribution *d)
{
    if (!(d->flags & BUCKETED))
        return count_values(counted, d->data, (size_t)d->count);
    Row positive = distribution_row(d, 0), negative = distribution_row(d, 1);
    memset(counted, 0, sizeof *counted);
    counted->zeros = d->zeros;
    counted->halvings = d->halvings;
    if (wide_from_row(&counted->positive, &positive) != 0 || wide_from_row(&counted->negative, &negative) != 0) {
        counted_free(counted);
        return -1;
    }
    return 0;
}

static Distribution *
distribution_of_counted(PyTypeObject *type, const Counted *counted)
{
    Row positive = wide_row(&counted->positive), negative = wide_row(&counted->negative);
    return distribution_of_rows(type, &positive, &negative, counted->zeros, counted->halvings);
}

static PyObject *
distribution_merge(Distribution *self, PyObject *object)
{
    TYPE_ERROR_UNLESS(object, Py_TYPE((PyObject *)self), "a Distribution merges with another one");
    Distribution *other = (Distribution *)object, *merged;
    if (other->count == 0)
        return Py_NewRef((PyObject *)self);
    if (self->count == 0)
        return Py_NewRef(object);
    uint64_t count = self->count + other->count;
    if (!((self->flags | other->flags) & BUCKETED) && count <= EXACT_VALUES) {
        merged = distribution_alloc(Py_TYPE((PyObject *)self), (size_t)count * 8);
        if (merged == NULL)
            return NULL;
        memcpy(merged->data, self->data, (size_t)self->count * 8);
        memcpy(merged->data + self->count, other->data, (size_t)other->count * 8);
    }
    else {
        Counted mine, theirs;
        if (count_distribution(&mine, self) != 0)
            return PyErr_NoMemory();
        if (count_distribution(&theirs, other) != 0) {
            counted_free(&mine);
            return PyErr_NoMemory();
        }
        if (mine.halvings < theirs.halvings)
            counted_halve(&mine, theirs.halvings - mine.halvings);
        else
            counted_halve(&theirs, mine.halvings - theirs.halvings);
        mine.zeros += theirs.zeros;
        int failed =
            wide_add(&mine.positive, &theirs.positive) != 0 || wide_add(&mine.negative, &theirs.negative) != 0;
        counted_free(&theirs);
        if (failed) {
            counted_free(&mine);
            return PyErr_NoMemory();
        }
        counted_bound(&mine);
        merged = distribution_of_counted(Py_TYPE((PyObject *)self), &mine);
        counted_free(&mine);
        if (merged == NULL)
            return NULL;
    }
    Sum sum = distribution_sum_of(self), more = distribution_sum_of(other);
    sum_merge(&sum, &more);
    int from_other_min = is_less(word_number(other->min, other->flags & VALUES_INT_MIN),
                                 word_number(self->min, self->flags & VALUES_INT_MIN));
    int from_other_max = is_less(word_number(self->max, self->flags & VALUES_INT_MAX),
                                 word_number(other->max, other->flags & VALUES_INT_MAX));
    merged->count = count;
    merged->integer = sum.integer;
    merged->real = sum.real;
    merged->error = sum.error;
    merged->min = from_other_min ? other->min : self->min;
    merged->max = from_other_max ? other->max : self->max;
    merged->failures = self->failures + other->failures;
    merged->flags |= (uint16_t)(sum.flags | ((from_other_min ? other : self)->flags & VALUES_INT_MIN) |
                                ((from_other_max ? other : self)->flags & VALUES_INT_MAX));
    /* Chan, Golub, LeVeque 1979, in a form in which nothing is squared: half of the distance between the means never
     * overflows. */
    double mine = (double)self->count / (double)count, theirs = (double)other->count / (double)count;
    double half = other->mean / 2 - self->mean / 2;
    double apart = half * (2 * sqrt(mine * theirs));
    double step = half * theirs, moved = self->mean + 2 * step;
    /* Between extreme values twice the step is infinite, although their mean is not. */
    merged->mean = isfinite(moved) ? moved : self->mean + step + step;
    merged->stddev = hypot(hypot(self->stddev * sqrt(mine), other->stddev * sqrt(theirs)), apart);
    return (PyObject *)merged;
}

static double
values_stddev(const double *values, size_t number, double mean)
{
    double largest = 0.0, squares = 0.0, error = 0.0;
    int exponent = 0;
    for (size_t i = 0; i < number; i++) {
        double apart = fabs(values[i] / 2 - mean / 2);
        largest = apart > largest ? apart : largest;
    }
    if (largest == 0.0)
        return 0.0;
    (void)frexp(largest, &exponent);
    for (size_t i = 0; i < number; i++) {
        double apart = ldexp(values[i] / 2 - mean / 2, -exponent);
        add_real(&squares, &error, apart * apart);
    }
    return ldexp(sqrt((squares + error) / (double)number), exponent + 1);
}

static PyObject *
distribution_of(PyTypeObject *type, PyObject *given)
{
    PyObject *sequence = PySequence_Fast(given, "values must be a sequence of numbers");
    if (sequence == NULL)
        return NULL;
    Py_ssize_t number = PySequence_Size(sequence);
    double *values = MALLOC((size_t)(number ? number : 1) * 8);
    Number low = integer_number(0), high = integer_number(0);
    Sum sum = {0, 0.0, 0.0, 0};
    double mean = 0.0, mean_error = 0.0;
    Distribution *self = NULL;
    if (values == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < number; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        Number value;
        if (item == NULL)
            goto done;
        if (!exact_number(item, &value)) {
            if (!PyLong_Check(item) && !PyFloat_Check(item)) {
                PyErr_Format(PyExc_TypeError, "%R is not a number", item);
                Py_DECREF(item);
                goto done;
            }
            if (checked_number(item, &value) != 0) {
                Py_DECREF(item);
                goto done;
            }
        }
        Py_DECREF(item);
        values[i] = value.d;
        if (i == 0)
            low = high = value;
        low = is_less(value, low) ? value : low;
        high = is_less(high, value) ? value : high;
        if (value.is_int)
            add_integer(&sum.integer, &sum.real, &sum.error, &sum.flags, value.i);
        else {
            sum.flags |= HAS_REAL;
            add_real(&sum.real, &sum.error, value.d);
        }
        add_real(&mean, &mean_error, value.d / 2 / (double)number);
    }
    if (number <= EXACT_VALUES)
        self = distribution_of_values(type, values, (size_t)number);
    else {
        Counted counted;
        if (count_values(&counted, values, (size_t)number) != 0) {
            PyErr_NoMemory();
            goto done;
        }
        self = distribution_of_counted(type, &counted);
        counted_free(&counted);
    }
    if (self == NULL)
        goto done;
    self->count = (uint64_t)number;
    self->integer = sum.integer;
    self->real = sum.real;
    self->error = sum.error;
    self->min = word_of(low);
    self->max = word_of(high);
    double total = sum_real(&sum) / (double)(number ? number : 1);
    self->mean = isfinite(total) ? total : 2 * (mean + mean_error);
    if (number) {
        self->mean = self->mean < low.d ? low.d : self->mean > high.d ? high.d : self->mean;
        self->stddev = values_stddev(values, (size_t)number, self->mean);
    }
    self->flags |= (uint16_t)(sum.flags | (number && low.is_int ? VALUES_INT_MIN : 0) |
                              (number && high.is_int ? VALUES_INT_MAX : 0));
done:
    free(values);
    Py_DECREF(sequence);
    return (PyObject *)self;
}

static PyObject *
distribution_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Distribution", names))
        return NULL;
    return (PyObject *)distribution_of_values(type, NULL, 0);
}

static PyObject *
distribution_sum(Distribution *self, void *closure)
{
    Sum sum = distribution_sum_of(self);
    return sum_value(&sum);
}

static PyObject *
distribution_clamped(const Distribution *self, double value)
{
    Number low = word_number(self->min, self->flags & VALUES_INT_MIN);
    Number high = word_number(self->max, self->flags & VALUES_INT_MAX);
    Number number = real_number(value);
    return number_object(is_less(number, low) ? low : is_less(high, number) ? high : number);
}

static PyObject *
distribution_mean(Distribution *self, void *closure)
{
    if (self->count == 0)
        return PyFloat_FromDouble(0.0);
    Sum sum = distribution_sum_of(self);
    double mean = sum_real(&sum) / (double)self->count;
    /* Rounding may put the mean of equal values an ulp outside of them. */
    return distribution_clamped(self, isfinite(mean) ? mean : self->mean);
}

static PyObject *
distribution_number(Distribution *self, void *closure)
{
    switch (*(const char *)closure) {
    case 'c':
        return PyLong_FromUnsignedLongLong(self->count);
    case 'f':
        return PyLong_FromUnsignedLongLong(self->failures);
    case 'd':
        return PyFloat_FromDouble(self->stddev);
    case 's':
        return PyLong_FromLong(SCALE - (self->flags & BUCKETED ? self->halvings : 0));
    case 'e': /* half of the relative width of a bucket */
        return PyFloat_FromDouble(
            self->flags & BUCKETED ? (exp2(exp2((double)(self->halvings - SCALE))) - 1) / 2 : 0.0);
    case 'm':
        return self->count ? word_object(self->min, self->flags & VALUES_INT_MIN) : PyFloat_FromDouble(HUGE_VAL);
    default:
        return self->count ? word_object(self->max, self->flags & VALUES_INT_MAX) : PyFloat_FromDouble(-HUGE_VAL);
    }
}

static PyObject *
distribution_quantiles(Distribution *self, PyObject *shares)
{
    Py_ssize_t number = PyTuple_Size(shares);
    PyObject *result;
    double *ordered = NULL;
    if (self->count == 0) {
        PyErr_SetString(PyExc_ValueError, "an empty distribution has no quantiles");
        return NULL;
    }
    result = PyList_New(number);
    if (result == NULL)
        return NULL;
    if (!(self->flags & BUCKETED)) {
        ordered = MALLOC((size_t)self->count * 8);
        if (ordered == NULL) {
            Py_DECREF(result);
            return PyErr_NoMemory();
        }
        memcpy(ordered, self->data, (size_t)self->count * 8);
        qsort(ordered, (size_t)self->count, 8, compare_real);
    }
    Row negative = distribution_row(self, 1), positive = distribution_row(self, 0);
    for (Py_ssize_t n = 0; n < number; n++) {
        double share = PyFloat_AsDouble(PyTuple_GetItem(shares, n)), value = 0.0;
        if (share == -1.0 && PyErr_Occurred())
            goto failed;
        double rank = ceil(share * (double)self->count - 1e-9);
        uint64_t wanted = rank < 1 ? 1 : rank >= (double)self->count ? self->count : (uint64_t)rank, passed = 0;
        if (ordered != NULL)
            value = ordered[wanted - 1];
        else {
            int found = 0;
            for (int32_t i = negative.length - 1; i >= 0 && !found; i--) {
                passed += cell_get(negative.cells, negative.width, i);
                if (passed >= wanted) {
                    value = -bucket_middle(negative.low + i, self->halvings);
                    found = 1;
                }
            }
            passed += found ? 0 : self->zeros;
            found = found || passed >= wanted;
            for (int32_t i = 0; i < positive.length && !found; i++) {
                passed += cell_get(positive.cells, positive.width, i);
                if (passed >= wanted) {
                    value = bucket_middle(positive.low + i, self->halvings);
                    found = 1;
                }
            }
        }
        /* The middle of a bucket may lie outside of its values, and so does a large integer as a double. */
        PyObject *clamped = distribution_clamped(self, value);
        if (clamped == NULL || PyList_SetItem(result, n, clamped) != 0)
            goto failed;
    }
    free(ordered);
    return result;
failed:
    free(ordered);
    Py_DECREF(result);
    return NULL;
}

/* Return PackedCounts of a row: an integer that holds a lane of bits for each bucket. */
static PyObject *
packed_counts(PyObject *module, const Row *row)
{
    int width = width_for(row_peak(row));
    Py_ssize_t size = (Py_ssize_t)row->length * width;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size), *packed, *result = NULL;
    if (bytes == NULL)
        return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AsString(bytes);
    for (int32_t i = 0; i < row->length; i++) {
        uint64_t count = cell_get(row->cells, row->width, i);
        for (int b = 0; b < width; b++)
            to[(size_t)i * (size_t)width + (size_t)b] = (uint8_t)(count >> (8 * b));
    }
    packed = PyObject_CallMethod((PyObject *)&PyLong_Type, "from_bytes", "Os", bytes, "little");
    if (packed != NULL)
        result = PyObject_CallMethod(module, "PackedCounts", "iiKO", (int)row->low, 8 * width,
                                     (unsigned long long)row_peak(row), packed);
    Py_XDECREF(packed);
    Py_DECREF(bytes);
    return result;
}

static PyObject *
distribution_buckets(Distribution *self, void *closure)
{
    PyObject *module = PyImport_ImportModule("metrics_framework.recording.distribution"), *result = NULL;
    Counted counted;
    if (module == NULL)
        return NULL;
    if (count_distribution(&counted, self) != 0) {
        Py_DECREF(module);
        return PyErr_NoMemory();
    }
    Row positive = wide_row(&counted.positive), negative = wide_row(&counted.negative);
    PyObject *above = packed_counts(module, &positive), *below = above ? packed_counts(module, &negative) : NULL;
    if (below != NULL)
        result = PyObject_CallMethod(module, "Buckets", "iOKO", SCALE - counted.halvings, below,
                                     (unsigned long long)counted.zeros, above);
    Py_XDECREF(above);
    Py_XDECREF(below);
    counted_free(&counted);
    Py_DECREF(module);
    return result;
}

static PyObject *
distribution_values(const Distribution *self)
{
    if (self->flags & BUCKETED)
        Py_RETURN_NONE;
    PyObject *values = PyTuple_New((Py_ssize_t)self->count);
    for (uint64_t i = 0; values != NULL && i < self->count; i++) {
        PyObject *value = PyFloat_FromDouble(self->data[i]);
        if (value == NULL || PyTuple_SetItem(values, (Py_ssize_t)i, value) != 0)
            Py_CLEAR(values);
    }
    return values;
}

static PyObject *
distribution_state(Distribution *self, void *closure)
{
    PyObject *module = PyImport_ImportModule("metrics_framework.recording.distribution"), *result = NULL;
    PyObject *buckets = NULL, *values = NULL;
    if (module == NULL)
        return NULL;
    Sum sum = distribution_sum_of(self);
    PyObject *total;
    double error = 0.0;
    if (sum_is_integer(&sum))
        total = PyLong_FromLongLong(sum.integer);
    else {
        double real = sum.real;
        error = sum.error;
        if (sum.integer)
            add_integer_as_real(&real, &error, sum.integer);
        total = PyFloat_FromDouble(real);
    }
    if (self->flags & BUCKETED)
        buckets = distribution_buckets(self, NULL);
    else {
        Row none = {NULL, 1, 0, 0};
        PyObject *empty = packed_counts(module, &none);
        buckets = empty ? PyObject_CallMethod(module, "Buckets", "iOiO", SCALE, empty, 0, empty) : NULL;
        Py_XDECREF(empty);
    }
    values = buckets ? distribution_values(self) : NULL;
    PyObject *low = distribution_number(self, "m"), *high = distribution_number(self, "M");
    if (values && total && low && high)
        result = PyObject_CallMethod(module, "DistributionState", "KOO(Od)ddOOK", (unsigned long long)self->count, low,
                                     high, total, error, self->mean, self->stddev, values, buckets,
                                     (unsigned long long)self->failures);
    Py_XDECREF(low);
    Py_XDECREF(high);
    Py_XDECREF(total);
    Py_XDECREF(buckets);
    Py_XDECREF(values);
    Py_DECREF(module);
    return result;
}

#define MAX_INDEX (1 << 20) /* of a bucket at scale 6, and far more than that */

/* Read `object.name`, which must be an int or a float. */
static int
attribute_number(PyObject *object, const char *name, Number *number)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    int result = value == NULL ? -1 : any_number(value, number);
    Py_XDECREF(value);
    return result;
}

static int
wide_from_packed(Wide *wide, PyObject *packed)
{
    Number low;
    wide->cells = NULL;
    wide->length = 0;
    if (attribute_number(packed, "low", &low) != 0)
        return -1;
    PyObject *counts = PyObject_CallMethod(packed, "counts", NULL);
    if (counts == NULL)
        return -1;
    Py_ssize_t length = PySequence_Size(counts);
    if (low.i < -MAX_INDEX || low.i > MAX_INDEX || length > MAX_INDEX) {
        PyErr_Format(PyExc_ValueError, "buckets from %lld on, %zd of them, are beyond the range of floats",
                     (long long)low.i, length);
        Py_DECREF(counts);
        return -1;
    }
    wide->low = (int32_t)low.i;
    wide->cells = MALLOC((size_t)(length > 0 ? length : 1) * 8);
    if (wide->cells == NULL) {
        Py_DECREF(counts);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        PyObject *count = PySequence_GetItem(counts, i);
        if (count == NULL)
            break;
        wide->cells[i] = PyLong_AsUnsignedLongLong(count);
        Py_DECREF(count);
    }
    wide->length = (int32_t)length;
    Py_DECREF(counts);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
distribution_of_state(PyTypeObject *type, PyObject *state)
{
    Number count, low, high, mean, stddev, failures, scale, zeros, total, error;
    PyObject *exact = PyObject_GetAttrString(state, "exact"), *buckets = PyObject_GetAttrString(state, "buckets");
    PyObject *sum = PyObject_GetAttrString(state, "sum");
    Distribution *self = NULL;
    Counted counted;
    memset(&counted, 0, sizeof counted);
    if (exact == NULL || buckets == NULL || sum == NULL || attribute_number(state, "count", &count) != 0 ||
        attribute_number(state, "mean", &mean) != 0 || attribute_number(state, "stddev", &stddev) != 0 ||
        attribute_number(state, "failures", &failures) != 0)
        goto done;
    PyObject *first = PySequence_GetItem(sum, 0), *second = PySequence_GetItem(sum, 1);
    int failed = first == NULL || second == NULL || any_number(first, &total) != 0 ||
                 any_number(second, &error) != 0;
    Py_XDECREF(first);
    Py_XDECREF(second);
    if (failed)
        goto done;
    low = high = integer_number(0);
    if (count.i > 0 && (attribute_number(state, "min", &low) != 0 || attribute_number(state, "max", &high) != 0))
        goto done;
    if (exact != Py_None) {
        Py_ssize_t number = PySequence_Size(exact);
        if (number >= 0 && number != count.i) {
            PyErr_Format(PyExc_ValueError, "%zd values are not count=%lld", number, (long long)count.i);
            goto done;
        }
        self = number < 0 ? NULL : distribution_alloc(type, (size_t)number * 8);
        for (Py_ssize_t i = 0; self != NULL && i < number; i++) {
            PyObject *item = PySequence_GetItem(exact, i);
            self->data[i] = item ? PyFloat_AsDouble(item) : -1.0;
            Py_XDECREF(item);
            if (PyErr_Occurred())
                Py_CLEAR(self);
        }
    }
    else {
        PyObject *above = PyObject_GetAttrString(buckets, "positive");
        PyObject *below = PyObject_GetAttrString(buckets, "negative");
        if (above && below && wide_from_packed(&counted.positive, above) == 0 &&
            wide_from_packed(&counted.negative, below) == 0 && attribute_number(buckets, "scale", &scale) == 0 &&
            attribute_number(buckets, "zeros", &zeros) == 0) {
            if (scale.i > SCALE || scale.i < SCALE - 30)
                PyErr_Format(PyExc_ValueError, "scale=%lld is not between %d and %d", (long long)scale.i, SCALE - 30,
                             SCALE);
            counted.zeros = (uint64_t)zeros.i;
            counted.halvings = SCALE - (int)scale.i;
            self = PyErr_Occurred() ? NULL : distribution_of_counted(type, &counted);
        }
        Py_XDECREF(above);
        Py_XDECREF(below);
        counted_free(&counted);
    }
    if (self == NULL)
        goto done;
    self->count = (uint64_t)count.i;
    if (total.is_int)
        self->integer = total.i;
    else
        self->real = total.d;
    self->error = error.d;
    self->min = word_of(low);
    self->max = word_of(high);
    self->mean = mean.d;
    self->stddev = stddev.d;
    self->failures = (uint64_t)failures.i;
    self->flags |= (uint16_t)((total.is_int && error.d == 0.0 ? 0 : HAS_REAL) | (count.i && low.is_int ? VALUES_INT_MIN : 0) |
                              (count.i && high.is_int ? VALUES_INT_MAX : 0));
done:
    Py_XDECREF(exact);
    Py_XDECREF(buckets);
    Py_XDECREF(sum);
    return (PyObject *)self;
}

static PyObject *
distribution_compare(PyObject *self, PyObject *other, int op)
{
    const Distribution *a = (Distribution *)self, *b = (Distribution *)other;
    if (Py_TYPE(self) != Py_TYPE(other) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    Sum mine = distribution_sum_of(a), theirs = distribution_sum_of(b);
    int kinds = VALUES_INT_MIN | VALUES_INT_MAX | BUCKETED;
    int same = Py_SIZE(self) == Py_SIZE(other) && a->count == b->count && a->failures == b->failures &&
               sum_is_integer(&mine) == sum_is_integer(&theirs) && sum_real(&mine) == sum_real(&theirs) &&
               a->min == b->min && a->max == b->max && (a->flags & kinds) == (b->flags & kinds) &&
               a->mean == b->mean && a->stddev == b->stddev && a->zeros == b->zeros && a->halvings == b->halvings &&
               a->positive_low == b->positive_low && a->positive_length == b->positive_length &&
               a->negative_low == b->negative_low && a->negative_length == b->negative_length &&
               memcmp(a->data, b->data, (size_t)Py_SIZE(self)) == 0;
    return PyBool_FromLong(op == Py_EQ ? same : !same);
}

static PyObject *
distribution_reduce(PyObject *self, PyObject *unused)
{
    PyObject *make = PyObject_GetAttrString((PyObject *)Py_TYPE(self), "of_state");
    PyObject *state = make ? distribution_state((Distribution *)self, NULL) : NULL;
    if (state == NULL) {
        Py_XDECREF(make);
        return NULL;
    }
    return Py_BuildValue("(N(N))", make, state);
}

static PyObject *
distribution_repr(PyObject *self)
{
    return repr_attributes(self, "Distribution", "count", "sum");
}

static PyMethodDef distribution_methods[] = {
    {"of", (PyCFunction)distribution_of, METH_O | METH_CLASS,
     "of($type, values, /)\n--\n\nReturn the distribution of some finite numbers.\n\n"
     "Raises:\n    TypeError: If something in ``values`` is not a number."},
    {"of_state", (PyCFunction)distribution_of_state, METH_O | METH_CLASS,
     "of_state($type, state, /)\n--\n\nReturn the distribution that a `DistributionState` was taken from."},
    {"merge", (PyCFunction)distribution_merge, METH_O,
     "merge($self, other, /)\n--\n\nReturn the distribution of the values of both."},
    {"quantiles", (PyCFunction)distribution_quantiles, METH_VARARGS,
     "quantiles($self, /, *shares)\n--\n\nReturn the nearest-rank quantile for each share.\n\n"
     "Args:\n    *shares: Shares above 0 and up to 1.\n\nRaises:\n    ValueError: If there are no values."},
    {"__reduce__", distribution_reduce, METH_NOARGS, NULL},
    COPY_METHODS,
    {NULL},
};

static PyGetSetDef distribution_getset[] = {
    {"count", (getter)distribution_number, NULL, "The number of values.", "c"},
    {"records", (getter)distribution_number, NULL, "The number of values.", "c"},
    {"failures", (getter)distribution_number, NULL, "The number of values that ended in a failure.", "f"},
    {"stddev", (getter)distribution_number, NULL, "The standard deviation of the population.", "d"},
    {"scale", (getter)distribution_number, NULL, "The scale of the buckets.", "s"},
    {"relative_error", (getter)distribution_number, NULL,
     "The largest distance of a quantile from the true value, as a share of it; 0.0 while all values are kept.", "e"},
    {"min", (getter)distribution_number, NULL, "The smallest value; infinity if there is none.", "m"},
    {"max", (getter)distribution_number, NULL, "The largest value; minus infinity if there is none.", "M"},
    {"sum", (getter)distribution_sum, NULL, "The sum of all values; infinite beyond the largest float.", NULL},
    {"mean", (getter)distribution_mean, NULL, "The arithmetic mean; 0.0 if there are no values.", NULL},
    {"buckets", (getter)distribution_buckets, NULL, "The values as `Buckets`: counts in exponential buckets.", NULL},
    {"state", (getter)distribution_state, NULL, "The serializable `DistributionState`.", NULL},
    {NULL},
};

static PyType_Slot distribution_slots[] = {
    {Py_tp_doc, "Distribution()\n--\n\n"
                "Count, sum, extremes, deviation and quantiles of finite numbers of either sign. Immutable.\n\n"
                "Up to 128 values are kept as they are; then they are counted in base-2 exponential buckets of scale\n"
                "6, so that a quantile is within 0.55 % (OpenTelemetry metrics data model, ExponentialHistogram)."},
    {Py_tp_new, distribution_tp_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, distribution_methods},
    {Py_tp_getset, distribution_getset},
    {Py_tp_richcompare, distribution_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, distribution_repr},
    {0, NULL},
};

static PyType_Spec distribution_spec = {"metrics_framework.recording._core.Distribution", DATA_OFFSET, 1,
                                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, distribution_slots};

/* -- ErrorTypes and OutcomeAggregate -- */

typedef struct {
    PyObject_HEAD
    PyObject *names;  /* a list of strings, which only grows */
    PyObject *places; /* name to its place in the list */
} ErrorTypes;

static PyObject *
error_types_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":ErrorTypes", names))
        return NULL;
    ErrorTypes *self = (ErrorTypes *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->names = PyList_New(0);
    self->places = PyDict_New();
    if (self->names == NULL || self->places == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void
error_types_dealloc(PyObject *object)
{
    ErrorTypes *self = (ErrorTypes *)object;
    Py_XDECREF(self->names);
    Py_XDECREF(self->places);
    plain_dealloc(object);
}

/* Return the place of an exact string, or -1 if it is missing. Never raises. */
static Py_ssize_t
error_types_place(const ErrorTypes *self, PyObject *name)
{
    PyObject *place;
    if (!PyUnicode_CheckExact(name))
        return -1;
    place = PyDict_GetItemWithError(self->places, name);
    return place == NULL ? -1 : PyLong_AsSsize_t(place);
}

static int
error_types_append(ErrorTypes *self, PyObject *name)
{
    if (error_types_place(self, name) >= 0)
        return 0;
    PyObject *place = PyLong_FromSsize_t(PyList_Size(self->names));
    int result = place == NULL || PyList_Append(self->names, name) != 0 || PyDict_SetItem(self->places, name, place);
    Py_XDECREF(place);
    return result ? -1 : 0;
}

static PyObject *
error_types_add(ErrorTypes *self, PyObject *name)
{
    if (!PyUnicode_CheckExact(name)) {
        PyErr_Format(PyExc_TypeError, "%R is not a string", name);
        return NULL;
    }
    if (error_types_append(self, name) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static int
error_types_contains(PyObject *self, PyObject *name)
{
    return error_types_place((ErrorTypes *)self, name) >= 0;
}

static Py_ssize_t
error_types_length(PyObject *self)
{
    return PyList_Size(((ErrorTypes *)self)->names);
}

static PyObject *
error_types_names(ErrorTypes *self, void *closure)
{
    return PyList_AsTuple(self->names);
}

static PyMethodDef error_types_methods[] = {
    {"add", (PyCFunction)error_types_add, METH_O, "add($self, name, /)\n--\n\nAdd a name, if it is not there yet."},
    {NULL},
};

static PyGetSetDef error_types_getset[] = {
    {"names", (getter)error_types_names, NULL, "The names, in order of arrival.", NULL},
    {NULL},
};

static PyType_Slot error_types_slots[] = {
    {Py_tp_doc, "ErrorTypes()\n--\n\nThe error types of one operation. They are only ever added to."},
    {Py_tp_new, error_types_tp_new},
    {Py_tp_dealloc, error_types_dealloc},
    {Py_tp_methods, error_types_methods},
    {Py_tp_getset, error_types_getset},
    {Py_sq_contains, error_types_contains},
    {Py_sq_length, error_types_length},
    {0, NULL},
};

static PyType_Spec error_types_spec = {"metrics_framework.recording._core.ErrorTypes", sizeof(ErrorTypes), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, error_types_slots};

typedef struct {
    PyObject_VAR_HEAD /* the number of error types that it counts */
    uint64_t successes;
    ErrorTypes *types; /* NULL if there are no failures */
    uint64_t counts[1];
} OutcomeAggregate;

static OutcomeAggregate *
outcome_alloc(PyTypeObject *type, ErrorTypes *types, Py_ssize_t number)
{
    OutcomeAggregate *self = (OutcomeAggregate *)PyType_GenericAlloc(type, number);
    if (self != NULL && number > 0)
        self->types = (ErrorTypes *)Py_NewRef((PyObject *)types);
    return self;
}

static PyObject *
outcome_of_state(PyTypeObject *type, ErrorTypes *types, Page *page, const OutcomeState *o)
{
    Py_ssize_t number = 0;
    const uint64_t *counts = NULL;
    if (o->block) {
        counts = AT(page, o->block);
        number = (Py_ssize_t)(class_size((int)o->class) / 8);
        while (number > 0 && counts[number - 1] == 0)
            number--;
    }
    OutcomeAggregate *self = outcome_alloc(type, types, number);
    if (self != NULL) {
        self->successes = o->successes;
        if (number)
            memcpy(self->counts, counts, (size_t)number * 8);
    }
    return (PyObject *)self;
}

static void
outcome_dealloc(PyObject *object)
{
    Py_XDECREF((PyObject *)((OutcomeAggregate *)object)->types);
    plain_dealloc(object);
}

static PyObject *
outcome_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":OutcomeAggregate", names))
        return NULL;
    return (PyObject *)outcome_alloc(type, NULL, 0);
}

/* Make an aggregate of (name or None, number) pairs in a dict. */
static PyObject *
outcome_of_dict(PyTypeObject *type, PyTypeObject *error_types, PyObject *endings)
{
    PyObject *name, *number, *types = NULL;
    Py_ssize_t position = 0;
    uint64_t successes = 0;
    OutcomeAggregate *self = NULL;
    types = PyObject_CallNoArgs((PyObject *)error_types);
    if (types == NULL)
        return NULL;
    while (PyDict_Next(endings, &position, &name, &number)) {
        unsigned long long count = PyLong_AsUnsignedLongLong(number);
        if (PyErr_Occurred())
            goto done;
        if (name == Py_None)
            successes += count;
        else if (!PyUnicode_CheckExact(name)) {
            PyErr_Format(PyExc_TypeError, "%R is not an error type", name);
            goto done;
        }
        else if (error_types_append((ErrorTypes *)types, name) != 0)
            goto done;
    }
    self = outcome_alloc(type, (ErrorTypes *)types, PyList_Size(((ErrorTypes *)types)->names));
    if (self == NULL)
        goto done;
    self->successes = successes;
    position = 0;
    while (PyDict_Next(endings, &position, &name, &number))
        if (name != Py_None)
            self->counts[error_types_place((ErrorTypes *)types, name)] += PyLong_AsUnsignedLongLong(number);
done:
    Py_DECREF(types);
    return (PyObject *)self;
}

static PyObject *
outcome_endings(PyObject *object, int with_successes)
{
    OutcomeAggregate *self = (OutcomeAggregate *)object;
    PyObject *endings = PyDict_New(), *number;
    if (endings == NULL)
        return NULL;
    if (with_successes && self->successes) {
        number = PyLong_FromUnsignedLongLong(self->successes);
        if (number == NULL || PyDict_SetItem(endings, Py_None, number) != 0)
            Py_CLEAR(endings);
        Py_XDECREF(number);
    }
    for (Py_ssize_t i = 0; endings != NULL && i < Py_SIZE(object); i++) {
        if (self->counts[i] == 0)
            continue;
        PyObject *name = PyList_GetItem(self->types->names, i);
        number = PyLong_FromUnsignedLongLong(self->counts[i]);
        if (number == NULL || name == NULL || PyDict_SetItem(endings, name, number) != 0)
            Py_CLEAR(endings);
        Py_XDECREF(number);
    }
    return endings;
}

static PyObject *
outcome_of(PyObject *type, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    State *state = PyType_GetModuleState(defining);
    PyObject *counted, *iterator, *item, *result = NULL;
    if (nargs != 1 || (kwnames && PyTuple_Size(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "of() takes one argument: a sequence of error types or None");
        return NULL;
    }
    counted = PyDict_New();
    iterator = counted ? PyObject_GetIter(args[0]) : NULL;
    if (iterator == NULL) {
        Py_XDECREF(counted);
        return NULL;
    }
    while ((item = PyIter_Next(iterator)) != NULL) {
        if (item != Py_None && !PyUnicode_CheckExact(item))
            PyErr_Format(PyExc_TypeError, "%R is not an error type", item);
        else {
            PyObject *before = PyDict_GetItemWithError(counted, item);
            PyObject *number = PyLong_FromLongLong((before ? PyLong_AsLongLong(before) : 0) + 1);
            if (number != NULL)
                PyDict_SetItem(counted, item, number);
            Py_XDECREF(number);
        }
        Py_DECREF(item);
        if (PyErr_Occurred())
            break;
    }
    if (!PyErr_Occurred())
        result = outcome_of_dict((PyTypeObject *)type, state->error_types, counted);
    Py_DECREF(iterator);
    Py_DECREF(counted);
    return result;
}

static PyObject *
outcome_restore(PyObject *type, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    State *state = PyType_GetModuleState(defining);
    if (nargs != 1 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "of_endings() takes one argument: a dict of error type or None to number");
        return NULL;
    }
    return outcome_of_dict((PyTypeObject *)type, state->error_types, args[0]);
}

static PyObject *
outcome_merged(PyObject *object, PyObject *later, PyTypeObject *error_types)
{
    OutcomeAggregate *self = (OutcomeAggregate *)object, *other = (OutcomeAggregate *)later, *merged;
    if (self->types != NULL && other->types != NULL && self->types != other->types) {
        PyObject *mine = outcome_endings(object, 1), *theirs = mine ? outcome_endings(later, 1) : NULL;
        PyObject *name, *number, *result = NULL;
        Py_ssize_t position = 0;
        int failed = theirs == NULL;
        while (!failed && PyDict_Next(theirs, &position, &name, &number)) {
            PyObject *before = PyDict_GetItemWithError(mine, name);
            PyObject *sum = before ? PyNumber_Add(before, number) : Py_NewRef(number);
            failed = sum == NULL || PyDict_SetItem(mine, name, sum) != 0;
            Py_XDECREF(sum);
        }
        if (!failed)
            result = outcome_of_dict(Py_TYPE(object), error_types, mine);
        Py_XDECREF(mine);
        Py_XDECREF(theirs);
        return result;
    }
    Py_ssize_t number = Py_SIZE(object) > Py_SIZE(later) ? Py_SIZE(object) : Py_SIZE(later);
    merged = outcome_alloc(Py_TYPE(object), self->types ? self->types : other->types, number);
    if (merged == NULL)
        return NULL;
    merged->successes = self->successes + other->successes;
    for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
        merged->counts[i] += self->counts[i];
    for (Py_ssize_t i = 0; i < Py_SIZE(later); i++)
        merged->counts[i] += other->counts[i];
    return (PyObject *)merged;
}

static PyObject *
outcome_merge(PyObject *object, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs != 1 || (kwnames && PyTuple_Size(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "merge() takes one argument");
        return NULL;
    }
    TYPE_ERROR_UNLESS(args[0], Py_TYPE(object), "an OutcomeAggregate merges with another one");
    State *state = PyType_GetModuleState(defining);
    return outcome_merged(object, args[0], state->error_types);
}

static PyObject *
outcome_get(PyObject *object, void *closure)
{
    OutcomeAggregate *self = (OutcomeAggregate *)object;
    uint64_t failures = 0;
    for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
        failures += self->counts[i];
    switch (*(const char *)closure) {
    case 'r':
        return PyLong_FromUnsignedLongLong(self->successes + failures);
    case 's':
        return PyLong_FromUnsignedLongLong(self->successes);
    case 'f':
        return outcome_endings(object, 0);
    case 'e':
        return outcome_endings(object, 1);
    default:
        return PyFloat_FromDouble(self->successes + failures
                                      ? (double)self->successes / (double)(self->successes + failures)
                                      : 1.0);
    }
}

static PyObject *
outcome_all_endings(PyObject *self)
{
    return outcome_endings(self, 1);
}

static PyObject *
outcome_compare(PyObject *self, PyObject *other, int op)
{
    return compare_fields(self, other, op, outcome_all_endings);
}

static PyObject *
outcome_reduce(PyObject *self, PyObject *unused)
{
    PyObject *make = PyObject_GetAttrString((PyObject *)Py_TYPE(self), "of_endings");
    PyObject *endings = make ? outcome_endings(self, 1) : NULL;
    if (endings == NULL) {
        Py_XDECREF(make);
        return NULL;
    }
    return Py_BuildValue("(N(N))", make, endings);
}

static PyObject *
outcome_repr(PyObject *self)
{
    return repr_attributes(self, "OutcomeAggregate", "successes", "failures");
}

#define WITH_CLASS (METH_METHOD | METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef outcome_methods[] = {
    {"of", (PyCFunction)(void (*)(void))outcome_of, WITH_CLASS | METH_CLASS,
     "of($type, endings, /)\n--\n\nCount endings: error types, or None for a success.\n\n"
     "Raises:\n    TypeError: If one is neither None nor a string."},
    {"of_endings", (PyCFunction)(void (*)(void))outcome_restore, WITH_CLASS | METH_CLASS,
     "of_endings($type, endings, /)\n--\n\nReturn an aggregate with these numbers by error type, None for successes."},
    {"merge", (PyCFunction)(void (*)(void))outcome_merge, WITH_CLASS,
     "merge($self, later, /)\n--\n\nReturn the counts of both."},
    {"__reduce__", outcome_reduce, METH_NOARGS, NULL},
    COPY_METHODS,
    {NULL},
};

static PyGetSetDef outcome_getset[] = {
    {"records", outcome_get, NULL, "The number of outcomes.", "r"},
    {"successes", outcome_get, NULL, "The number of successes.", "s"},
    {"failures", outcome_get, NULL, "Error type to number of failures.", "f"},
    {"endings", outcome_get, NULL, "Error type to number; None stands for successes.", "e"},
    {"success_rate", outcome_get, NULL, "The share of successes; 1.0 if there are no outcomes.", "q"},
    {NULL},
};

static PyType_Slot outcome_slots[] = {
    {Py_tp_doc, "OutcomeAggregate()\n--\n\nThe successes and failures of an operation. Immutable."},
    {Py_tp_new, outcome_tp_new},
    {Py_tp_dealloc, outcome_dealloc},
    {Py_tp_methods, outcome_methods},
    {Py_tp_getset, outcome_getset},
    {Py_tp_richcompare, outcome_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, outcome_repr},
    {0, NULL},
};

static PyType_Spec outcome_spec = {"metrics_framework.recording._core.OutcomeAggregate",
                                   offsetof(OutcomeAggregate, counts), 8,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, outcome_slots};

/* ---- objects: core, slots, tag sets, series -------------------------------------------------------------- */

typedef struct Series Series;
typedef struct Slot Slot;
typedef struct RecordLog RecordLog;

typedef struct {
    PyObject_HEAD
    PyObject *now; /* NULL: the system clock */
    PyObject *publish_recent;
    PyObject *module;
    State *state;
    Page page;
    /* The directory of a shared page; the tables themselves are in the page. */
    uint32_t *tables;
    size_t table_count, table_capacity;
    uint32_t directory_used, *free_indexes, generation;
    size_t free_index_count, free_index_capacity;
    uint64_t unshared_series;
    Slot **slots; /* all that exist, borrowed */
    size_t slot_count, slot_capacity;
    RecordLog **logs; /* those that are subscribed, borrowed */
    size_t log_count;
    int allows_recent, was_shared;
    uint32_t publish_at; /* how many closed slots of a second wait before `publish` is called */
} Core;

#define SLOT_NS 1000000000LL
#define RECENT_NS 16000000000LL

struct Slot {
    PyObject_HEAD
    Core *core;
    ErrorTypes *types;
    PyObject *publish; /* NULL: there is nothing to call */
    PyObject *windows;
    PyObject *bounds; /* a tuple, or NULL */
    double *limits;   /* the same as doubles */
    size_t limit_count;
    /* In the page: start of the open slot, start of the last closed one; of a shared operation also where the names of
     * its error types are, and how many. */
    uint64_t *header;
    void *open, *closed; /* in the page: states */
    int64_t width_ns, open_ns, end_ns, recent_from_ns;
    uint32_t coarse; /* which 16 s slot the open slot lies in */
    uint8_t kind, law, whole_is_stale, keeps_closed; /* closed slots wait until they are committed */
    uint8_t has_law;                                 /* the law was set */
    uint8_t names_class;                             /* of the block that `header` names */
    uint32_t directory; /* of a recent slot: the index of its series in the directory, or 0 */
    uint32_t wipes;     /* of the page when the whole was computed */
    Number whole; /* the combined value of a gauge by its law, unless it is stale */
    Sum whole_sum;
    uint32_t whole_members, whole_reals; /* series with a value, and those whose value is not an integer */
    PyObject **waiting; /* aggregates of closed slots, not committed yet */
    int64_t *waiting_ns;
    uint32_t waiting_count, waiting_capacity;
    Series **members; /* live series, borrowed */
    uint32_t member_count, member_capacity;
    size_t place; /* in core->slots */
};

typedef struct {
    PyObject_HEAD
    PyObject *owner;
    PyObject *names; /* a tuple of exact strings */
    PyObject *key;   /* bytes that tell other processes what the series are */
    uint64_t key_share; /* the sharing in which they are in the page, at `key_block`, for `key_uses` series */
    uint32_t key_block, key_uses;
    Py_ssize_t name_count;
    Series **entries; /* in order of arrival; NULL for a removed one */
    /* By entry: what other processes recorded, as `set_others` takes it, or NULL. Not in the series, because two cache
     * lines hold a series of two tags. NULL as a whole until it is needed. */
    PyObject **others;
    uint32_t entry_count, entry_capacity, live;
    uint32_t latest; /* the place of the entry that was found last */
    /* A power of two of words. The low bits of a word are the place of an entry plus one, 0 for none, all ones for a
     * removed one. The other bits are those of its hash, so that other entries are not read. */
    uint32_t *index;
    uint32_t index_size, index_used;
} TagSet;

enum { IS_LIVE = 1, IS_NULL = 2, RECENT_MISSED = 4, IS_TIMER = 8 };

struct Series {
    PyObject_VAR_HEAD /* the number of tags */
    TagSet *tag_set;
    Slot *slot;
    Slot *recent;
    void *state; /* in the page; NULL before the first record */
    uint32_t hash, coarse, member, generation;
    uint32_t entry, flags : 8, directory : 24; /* its index in the directory of a shared page, or 0 */
    PyObject *values[1];
};

struct RecordLog {
    PyObject_HEAD
    Core *core; /* NULL once it is not subscribed */
    struct LogEntry *entries;
    size_t count, capacity, limit;
    uint64_t start, lost;
};

struct LogEntry {
    Series *series;
    Number value, number;
    uint64_t count;
    int64_t now_ns;
    int32_t error_type;
};

/* The precise time. Never earlier than a time before. */
static inline int64_t
precise_now(State *state)
{
    int64_t now = system_now();
    return state->latest_ns = now > state->latest_ns ? now : state->latest_ns;
}

/* The time of a record. To read the kernel's last tick costs a fifth of the precise time; it is at most 4 ms ago (10 ms
 * where the kernel ticks a hundred times a second). A record is still later than each record and reading before it, if
 * only by a nanosecond, so a slot that was read as complete stays so, and the order of records is theirs. Other
 * processes compare times alone, so a core that was ever shared takes the precise one. */
static inline int64_t
record_now(const Core *core)
{
#ifdef CLOCK_MONOTONIC_COARSE
    State *state = core->state;
    if (LIKELY(state->has_ticks && !core->was_shared)) {
        int64_t now = clock_now(CLOCK_MONOTONIC_COARSE);
        return state->latest_ns = now > state->latest_ns ? now : state->latest_ns + 1;
    }
#endif
    return precise_now(core->state);
}

/* The time of a value of a gauge, whose average is weighted by time: the precise one, unless it has the value already. */
static inline int64_t
gauge_now(const Series *series, Number value)
{
    const Core *core = series->slot->core;
    const GaugeState *mine = series->state, *open = series->slot->open;
    int stays = series->flags & IS_LIVE && mine && open && gauge_is_at(mine, value) && gauge_is_at(open, value);
    return stays ? record_now(core) : precise_now(core->state);
}

static inline int
core_now(const Core *core, int64_t *now)
{
    if (LIKELY(core->now == NULL)) {
        *now = precise_now(core->state);
        return 0;
    }
    PyObject *result = PyObject_CallNoArgs(core->now);
    if (result == NULL)
        return -1;
    *now = PyLong_AsLongLong(result);
    Py_DECREF(result);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}

/* -- the directory: where other processes find series in a shared page --
 *
 * A chain of tables of words. A word is 0 or (generation << 32 | offset of an entry), so that the word of another entry
 * never looks the same. What an entry refers to is complete before its word is written and stays as it is until the word
 * is 0, except for `recent`. Nothing in here fails a record: a series without an entry is counted. */

typedef struct {
    uint32_t state, slot, recent, key; /* offsets; `recent` may be 0 */
    uint16_t kind, value_count;
    uint32_t text_length; /* the bytes that follow: each value as its length and its UTF-8 */
} DirectoryEntry;

typedef char assert_entry[sizeof(DirectoryEntry) == 24 ? 1 : -1];

#define FIRST_TABLE_CLASS 12
#define TABLE_WORDS(class) (((size_t)1 << (class)) / 8 - 1) /* the first word is the offset of the next table */
#define MAX_DIRECTORY ((1u << 24) - 1)

static inline int
table_class(size_t table)
{
    return table == 0 ? FIRST_TABLE_CLASS : LARGEST_CLASS;
}

/* Return the table of an index, which begins at 1, and its place in it. */
static size_t
table_of_index(uint32_t index, size_t *place)
{
    size_t word = index - 1, first = TABLE_WORDS(FIRST_TABLE_CLASS);
    *place = 1 + (word < first ? word : (word - first) % TABLE_WORDS(LARGEST_CLASS));
    return word < first ? 0 : 1 + (word - first) / TABLE_WORDS(LARGEST_CLASS);
}

static uint64_t *
directory_word(const Core *core, uint32_t index)
{
    size_t place, table = table_of_index(index, &place);
    return (uint64_t *)AT(&core->page, core->tables[table]) + place;
}

static void
store_logged(Page *page, uint64_t *word, uint64_t value)
{
    touch(page, word);
    page_publish(page);
    *(volatile uint64_t *)word = value;
    page_done(page);
}

/* Add a table. Returns -1 where memory is at its end. */
static int
directory_grow(Core *core)
{
    Page *page = &core->page;
    if (core->table_count == core->table_capacity) {
        size_t capacity = core->table_capacity ? 2 * core->table_capacity : 4;
        uint32_t *tables = REALLOC(core->tables, capacity * sizeof *tables);
        if (tables == NULL)
            return -1;
        core->tables = tables;
        core->table_capacity = capacity;
    }
    uint64_t block = page_alloc(page, table_class(core->table_count));
    if (block == 0)
        return -1;
    if (core->table_count == 0)
        store_logged(page, &HEADER(page)->directory, block);
    else
        store_logged(page, AT(page, core->tables[core->table_count - 1]), block);
    core->tables[core->table_count++] = (uint32_t)block;
    return 0;
}

/* Return a free index; 0 if there is none. */
static uint32_t
directory_index(Core *core)
{
    size_t place;
    if (core->free_index_count)
        return core->free_indexes[--core->free_index_count];
    if (core->directory_used == MAX_DIRECTORY ||
        (table_of_index(core->directory_used + 1, &place) == core->table_count && directory_grow(core) != 0))
        return 0;
    return ++core->directory_used;
}

static void
directory_free_index(Core *core, uint32_t index)
{
    if (core->free_index_count == core->free_index_capacity) {
        size_t capacity = core->free_index_capacity ? 2 * core->free_index_capacity : 16;
        uint32_t *indexes = realloc(core->free_indexes, capacity * sizeof *indexes);
        if (indexes == NULL)
            return; /* the index is not used again */
        core->free_indexes = indexes;
        core->free_index_capacity = capacity;
    }
    core->free_indexes[core->free_index_count++] = index;
}

/* Write a string as UTF-8, also one half of a surrogate pair, and return the bytes; only count them if `to` is NULL.
 * Unlike Python's own functions this neither allocates nor raises. */
static size_t
put_text(uint8_t *to, PyObject *text)
{
    Py_ssize_t length = PyUnicode_GetLength(text);
    size_t bytes = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        uint32_t c = PyUnicode_ReadChar(text, i);
        int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        if (to != NULL) {
            static const uint8_t marks[4] = {0, 0xC0, 0xE0, 0xF0};
            to[bytes] = (uint8_t)(marks[more] | c >> 6 * more);
            for (int k = 1; k <= more; k++)
                to[bytes + (size_t)k] = (uint8_t)(0x80 | (c >> 6 * (more - k) & 0x3F));
        }
        bytes += 1 + (size_t)more;
    }
    return bytes;
}

/* Return a block of a length and some bytes; 0 where memory is at its end or they are too long. */
static uint32_t
text_block(Page *page, const void *bytes, size_t length)
{
    uint64_t block = 4 + length <= LARGEST_BLOCK ? page_alloc(page, class_of(4 + length)) : 0;
    uint32_t number = (uint32_t)length;
    if (block != 0) {
        memcpy(AT(page, block), &number, 4);
        memcpy((uint8_t *)AT(page, block) + 4, bytes, length);
    }
    return (uint32_t)block;
}

static void
text_free(Page *page, uint32_t block)
{
    uint32_t length;
    memcpy(&length, AT(page, block), 4);
    page_free(page, block, class_of(4 + length));
}

/* Return the block of a tag set's key; 0 where memory is at its end or it is too long. */
static uint32_t
key_block(Core *core, TagSet *tag_set)
{
    if (tag_set->key_share != core->page.share || tag_set->key_block == 0) {
        tag_set->key_share = core->page.share;
        tag_set->key_uses = 0;
        tag_set->key_block =
            text_block(&core->page, PyBytes_AsString(tag_set->key), (size_t)PyBytes_Size(tag_set->key));
    }
    return tag_set->key_block;
}

static void
key_unused(Core *core, TagSet *tag_set)
{
    if (tag_set->key_uses == 0 && tag_set->key_block != 0) {
        text_free(&core->page, tag_set->key_block);
        tag_set->key_block = 0;
    }
}

/* Write the entry of a series that has its state and its slot. */
static void
directory_enter(Series *series)
{
    Core *core = series->slot->core;
    Page *page = &core->page;
    TagSet *tag_set = series->tag_set;
    Py_ssize_t count = Py_SIZE((PyObject *)series);
    size_t length = 0;
    int fits = count <= UINT16_MAX;
    for (Py_ssize_t i = 0; i < count && fits; i++) {
        fits = PyUnicode_GetLength(series->values[i]) <= LARGEST_BLOCK;
        length += fits ? 4 + put_text(NULL, series->values[i]) : 0;
        fits = fits && sizeof(DirectoryEntry) + length <= LARGEST_BLOCK;
    }
    uint32_t key = fits ? key_block(core, tag_set) : 0;
    uint32_t index = key ? directory_index(core) : 0;
    uint64_t block = index ? page_alloc(page, class_of(sizeof(DirectoryEntry) + length)) : 0;
    if (block == 0) {
        core->unshared_series++;
        if (index)
            directory_free_index(core, index);
        if (key)
            key_unused(core, tag_set);
        return;
    }
    DirectoryEntry *entry = AT(page, block);
    entry->state = (uint32_t)OFFSET(page, series->state);
    entry->slot = (uint32_t)OFFSET(page, series->slot->header);
    entry->key = key;
    entry->kind = series->slot->kind;
    entry->value_count = (uint16_t)count;
    entry->text_length = (uint32_t)length;
    uint8_t *to = (uint8_t *)(entry + 1);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t bytes = (uint32_t)put_text(to + 4, series->values[i]);
        memcpy(to, &bytes, 4);
        to += 4 + bytes;
    }
    Slot *recent = series->recent;
    if (recent != NULL) {
        recent->directory = index;
        entry->recent = recent->header ? (uint32_t)OFFSET(page, recent->header) : 0;
    }
    tag_set->key_uses++;
    series->directory = index;
    store_logged(page, directory_word(core, index), (uint64_t)++core->generation << 32 | block);
}

/* Take the entry of a series out, if it has one. */
static void
directory_leave(Series *series)
{
    Core *core = series->slot->core;
    Page *page = &core->page;
    uint32_t index = series->directory;
    series->directory = 0;
    if (series->recent != NULL)
        series->recent->directory = 0;
    if (index == 0 || page->share == 0) /* a fork has wiped the directory */
        return;
    uint64_t *word = directory_word(core, index);
    uint32_t block = (uint32_t)*word;
    store_logged(page, word, 0);
    page_free(page, block, class_of(sizeof(DirectoryEntry) + ((DirectoryEntry *)AT(page, block))->text_length));
    directory_free_index(core, index);
    series->tag_set->key_uses--;
    key_unused(core, series->tag_set);
}

static void
directory_set_recent(Core *core, uint32_t index, uint32_t block)
{
    Page *page = &core->page;
    if (page->share == 0)
        return;
    DirectoryEntry *entry = AT(page, (uint32_t)*directory_word(core, index));
    touch(page, entry);
    page_publish(page);
    *(volatile uint32_t *)&entry->recent = block;
    page_done(page);
}

static void
directory_reset(Core *core)
{
    core->page.share = 0;
    core->table_count = core->free_index_count = 0;
    core->directory_used = 0;
    core->unshared_series = 0;
}

/* Write the names of error types up to one into the page. A name that finds no memory is tried again later. */
static NOINLINE void
names_enter(Slot *slot, uint32_t number)
{
    Page *page = &slot->core->page;
    while (slot->header[3] < number) {
        uint64_t place = slot->header[3], table = slot->header[2];
        PyObject *name = PyList_GetItem(slot->types->names, (Py_ssize_t)place);
        if (table == 0 || (place + 1) * 4 > class_size(slot->names_class)) {
            int class = table ? slot->names_class + 1 : SMALLEST_CLASS;
            uint64_t larger = class <= LARGEST_CLASS ? page_alloc(page, class) : 0;
            if (larger == 0)
                return;
            if (table)
                memcpy(AT(page, larger), AT(page, table), class_size(slot->names_class));
            store_logged(page, &slot->header[2], larger);
            page_free(page, table, slot->names_class);
            slot->names_class = (uint8_t)class;
            table = larger;
        }
        size_t length = put_text(NULL, name);
        uint64_t block = 4 + length <= LARGEST_BLOCK ? page_alloc(page, class_of(4 + length)) : 0;
        if (block == 0 && 4 + length <= LARGEST_BLOCK)
            return;
        if (block != 0) { /* a name that is too long stays without one */
            uint32_t bytes = (uint32_t)put_text((uint8_t *)AT(page, block) + 4, name);
            memcpy(AT(page, block), &bytes, 4);
        }
        uint32_t *entry = (uint32_t *)AT(page, table) + place;
        touch(page, entry);
        touch(page, slot->header);
        page_publish(page);
        *entry = (uint32_t)block;
        slot->header[3] = place + 1;
        page_done(page);
    }
}

static void
names_free(Slot *slot)
{
    Page *page = &slot->core->page;
    if (slot->kind != OUTCOME || slot->header[2] == 0)
        return;
    const uint32_t *names = AT(page, slot->header[2]);
    for (uint64_t i = 0; i < slot->header[3]; i++)
        if (names[i] != 0)
            text_free(page, names[i]);
    page_free(page, slot->header[2], slot->names_class);
}

/* -- slots -- */

static int
slot_reserve(Slot *slot)
{
    Page *page = &slot->core->page;
    size_t size = STATE_SIZES[slot->kind];
    uint64_t block = page_alloc(page, class_of(LINE + 2 * size));
    if (block == 0) {
        PyErr_NoMemory();
        return -1;
    }
    slot->header = AT(page, block);
    slot->open = AT(page, block + LINE);
    slot->closed = AT(page, block + LINE + size);
    if (slot->directory)
        directory_set_recent(slot->core, slot->directory, (uint32_t)block);
    return 0;
}

static PyObject *
aggregate_of(const Slot *slot, const void *state)
{
    Core *core = slot->core;
    switch (slot->kind) {
    case COUNTER: {
        const CounterState *c = state;
        Sum sum = {c->integer, c->real, c->error, (unsigned)c->flags};
        return counter_new(core->state->counter, c->count, &sum);
    }
    case GAUGE:
        return gauge_of_state(core->state->gauge, state);
    case DISTRIBUTION:
        return distribution_of_page(core->state->distribution, &core->page, state);
    default:
        return outcome_of_state(core->state->outcome, slot->types, &core->page, state);
    }
}

static inline int
slot_is_empty(const Slot *slot)
{
    if (slot->open == NULL)
        return 1;
    if (slot->kind == GAUGE) /* a removal changes the combined value without a record */
        return !(((const GaugeState *)slot->open)->flags & STARTED);
    return state_records(slot->kind, slot->open) == 0;
}

/* Open the slot of a moment, and close the one before it. Returns 1 if closed slots are to be published, 0 if not, -1
 * with an error: then nothing changed. */
static NOINLINE int
slot_roll(Slot *slot, int64_t now)
{
    Page *page = &slot->core->page;
    size_t size = STATE_SIZES[slot->kind];
    int64_t start = now - ((now % slot->width_ns) + slot->width_ns) % slot->width_ns;
    int closes = 0;
    if (slot->open == NULL && slot_reserve(slot) != 0)
        return -1;
    if (!slot_is_empty(slot)) {
        if (slot->keeps_closed) {
            if (slot->waiting_count == slot->waiting_capacity) {
                uint32_t capacity = slot->waiting_capacity ? 2 * slot->waiting_capacity : 2;
                PyObject **waiting = REALLOC(slot->waiting, capacity * sizeof *waiting);
                if (waiting != NULL)
                    slot->waiting = waiting;
                int64_t *waiting_ns = waiting ? REALLOC(slot->waiting_ns, capacity * sizeof *waiting_ns) : NULL;
                if (waiting_ns == NULL) {
                    PyErr_NoMemory();
                    return -1;
                }
                slot->waiting_ns = waiting_ns;
                slot->waiting_capacity = capacity;
            }
            PyObject *aggregate = aggregate_of(slot, slot->open);
            if (aggregate == NULL)
                return -1;
            slot->waiting[slot->waiting_count] = aggregate;
            slot->waiting_ns[slot->waiting_count++] = slot->open_ns;
        }
        uint8_t before[sizeof(DistributionState)];
        memcpy(before, slot->closed, size);
        touch(page, slot->header);
        for (size_t line = 0; line < 2 * size; line += LINE)
            touch(page, (uint8_t *)slot->open + line);
        page_publish(page);
        memcpy(slot->closed, slot->open, size);
        memset(slot->open, 0, size);
        slot->header[0] = (uint64_t)start;
        slot->header[1] = (uint64_t)slot->open_ns;
        page_done(page);
        state_free_blocks(page, slot->kind, before);
        closes = slot->keeps_closed && slot->waiting_count >= (slot->width_ns == SLOT_NS ? slot->core->publish_at : 1);
    }
    else {
        touch(page, slot->header);
        page_publish(page);
        slot->header[0] = (uint64_t)start;
        page_done(page);
    }
    slot->open_ns = start;
    slot->end_ns = start + slot->width_ns;
    slot->coarse = (uint32_t)((uint64_t)start / (uint64_t)RECENT_NS);
    return closes;
}

static inline int
slot_enter(Slot *slot, int64_t now)
{
    return LIKELY(now < slot->end_ns) ? 0 : slot_roll(slot, now);
}

/* Call `publish` after a record that closed a slot. */
static NOINLINE int
slot_published(Slot *slot)
{
    PyObject *result, *publish = slot->publish;
    if (publish == NULL)
        return 0;
    Py_INCREF(publish);
    Py_INCREF((PyObject *)slot);
    result = PyObject_CallFunctionObjArgs(publish, (PyObject *)slot, NULL);
    Py_DECREF((PyObject *)slot);
    Py_DECREF(publish);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static void
slot_drop_waiting(Slot *slot, uint32_t number)
{
    if (number == 0)
        return;
    /* Aggregates have no finalizer: to release them runs no Python. */
    for (uint32_t i = 0; i < number; i++)
        Py_DECREF(slot->waiting[i]);
    slot->waiting_count -= number;
    memmove(slot->waiting, slot->waiting + number, slot->waiting_count * sizeof *slot->waiting);
    memmove(slot->waiting_ns, slot->waiting_ns + number, slot->waiting_count * sizeof *slot->waiting_ns);
}

static int
slot_join(Slot *slot, Series *series)
{
    if (slot->member_count == slot->member_capacity) {
        uint32_t capacity = slot->member_capacity ? slot->member_capacity + slot->member_capacity / 2 + 1 : 1;
        Series **members = REALLOC(slot->members, capacity * sizeof *members);
        if (members == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        slot->members = members;
        slot->member_capacity = capacity;
    }
    series->member = slot->member_count;
    slot->members[slot->member_count++] = series;
    return 0;
}

static void
slot_leave(Slot *slot, Series *series)
{
    Series *last = slot->members[--slot->member_count];
    slot->members[series->member] = last;
    last->member = series->member;
}

/* -- the combined value (the whole) of a gauge by its law -- */

static Number
sum_number(const Sum *sum)
{
    if (sum_is_integer(sum))
        return integer_number(sum->integer);
    double real = sum_real(sum);
    return real_number(real > DBL_MAX ? DBL_MAX : real < -DBL_MAX ? -DBL_MAX : real);
}

static void
sum_add_number(Sum *sum, Number number)
{
    if (number.is_int)
        add_integer(&sum->integer, &sum->real, &sum->error, &sum->flags, number.i);
    else {
        sum->flags |= HAS_REAL;
        add_real(&sum->real, &sum->error, number.d);
    }
}

static Number
negated(Number number)
{
    if (number.is_int && number.i != INT64_MIN)
        return integer_number(-number.i);
    return real_number(-number.d);
}

static inline int
is_equal(Number a, Number b)
{
    return !is_less(a, b) && !is_less(b, a);
}

/* Whether a value replaces an extreme. Of an integer and a float that are equal, the integer is the extreme, so that the
 * order of the series does not matter. */
static inline int
is_beyond(int law, Number value, Number extreme)
{
    return (law == MIN ? is_less(value, extreme) : is_less(extreme, value)) ||
           (value.is_int && !extreme.is_int && is_equal(value, extreme));
}

/* Compute the whole from all series, as if `changed` had the value; NULL: as if it were removed. */
static void
whole_of_members(Slot *slot, const Series *changed, const Number *value)
{
    Sum sum = {0, 0.0, 0.0, 0};
    Number extreme = integer_number(0);
    uint32_t found = 0, reals = 0;
    for (uint32_t i = 0; i < slot->member_count; i++) {
        const Series *one = slot->members[i];
        const GaugeState *g = one->state;
        Number last;
        if (one == changed && value == NULL)
            continue;
        if (one == changed)
            last = *value;
        else if (g != NULL && g->flags & STARTED)
            last = word_number(g->last, g->flags & LAST_INT);
        else
            continue;
        sum_add_number(&sum, last);
        if (!found || is_beyond(slot->law, last, extreme))
            extreme = last;
        found++;
        reals += !last.is_int;
    }
    slot->whole_sum = sum;
    slot->whole = slot->law == SUM ? sum_number(&sum) : extreme;
    slot->whole_members = found;
    slot->whole_reals = reals;
    slot->wipes = slot->core->page.wipes;
    slot->whole_is_stale = isinf(sum.real) != 0;
}

/* Return the whole of all series after a change of one of them; `value` is NULL if it is removed. */
static Number
whole_after(Slot *slot, const Series *changed, const Number *value)
{
    const GaugeState *g = changed->state;
    int had = g != NULL && g->flags & STARTED;
    Number before = had ? word_number(g->last, g->flags & LAST_INT) : integer_number(0);
    if (slot->law == LATEST)
        return *value;
    if (slot->whole_is_stale || slot->wipes != slot->core->page.wipes) {
        whole_of_members(slot, changed, value);
        return slot->whole;
    }
    if (slot->law == SUM) {
        int loses_real = had && !before.is_int;
        slot->whole_reals += (uint32_t)(value != NULL && !value->is_int) - (uint32_t)loses_real;
        if (loses_real && slot->whole_reals == 0) { /* the sum of integers is an integer, and exact */
            whole_of_members(slot, changed, value);
            return slot->whole;
        }
        if (had)
            sum_add_number(&slot->whole_sum, negated(before));
        if (value != NULL)
            sum_add_number(&slot->whole_sum, *value);
        slot->whole = sum_number(&slot->whole_sum);
        slot->whole_is_stale = isinf(slot->whole_sum.real) != 0;
        return slot->whole;
    }
    int stays = value != NULL && value->is_int == slot->whole.is_int && is_equal(*value, slot->whole);
    if (value != NULL && (slot->whole_members == (uint32_t)had || is_beyond(slot->law, *value, slot->whole))) {
        slot->whole = *value;
        slot->whole_members += !had;
    }
    else if (!stays && had && is_equal(before, slot->whole))
        whole_of_members(slot, changed, value); /* another series may be the extreme now */
    else
        slot->whole_members += (uint32_t)(value != NULL) - (uint32_t)had;
    return slot->whole;
}

/* -- series -- */

#define CORE(series) ((series)->slot->core)

static NOINLINE int
series_reserve(Series *series)
{
    Page *page = &CORE(series)->page;
    uint64_t block = page_alloc(page, class_of(STATE_SIZES[series->slot->kind]));
    if (block == 0) {
        PyErr_NoMemory();
        return -1;
    }
    series->state = AT(page, block);
    if (page->file >= 0)
        directory_enter(series);
    return 0;
}

/* Give the state back: all bytes of it were used by this series only. */
static void
series_release(Series *series)
{
    directory_leave(series);
    if (series->state != NULL) {
        Page *page = &CORE(series)->page;
        int kind = series->slot->kind;
        state_free_blocks(page, kind, series->state);
        page_free(page, OFFSET(page, series->state), class_of(STATE_SIZES[kind]));
        series->state = NULL;
    }
    series->generation++;
    series->coarse = 0;
    series->flags &= ~(uint32_t)RECENT_MISSED;
}

static int64_t
state_last_ns(int kind, const void *state)
{
    int64_t last;
    if (state == NULL || state_records(kind, state) == 0)
        return 0;
    switch (kind) {
    case COUNTER:
        last = ((const CounterState *)state)->last_ns;
        break;
    case GAUGE:
        last = ((const GaugeState *)state)->last_ns;
        break;
    case DISTRIBUTION: {
        const DistributionState *d = state;
        last = (int64_t)d->last_second * 1000000000LL;
        last = last < d->created_ns ? d->created_ns : last;
        break;
    }
    default:
        last = ((const OutcomeState *)state)->last_ns;
    }
    return last > 0 ? last : 1;
}

static int64_t
state_created_ns(int kind, const void *state)
{
    if (state == NULL)
        return 0;
    switch (kind) {
    case COUNTER:
        return ((const CounterState *)state)->created_ns;
    case GAUGE:
        return ((const GaugeState *)state)->created_ns;
    case DISTRIBUTION:
        return ((const DistributionState *)state)->created_ns;
    default:
        return ((const OutcomeState *)state)->created_ns;
    }
}

/* -- what other processes recorded into a series -- */

enum { OTHERS_AGGREGATE, OTHERS_COUNTS, OTHERS_TOTAL, OTHERS_CREATED, OTHERS_LAST, OTHERS_FIELDS };

/* Return where a live series has the others' records; NULL if no series of its tag set has any. */
static PyObject **
others_place(const Series *series)
{
    TagSet *tag_set = series->tag_set;
    if (tag_set->others == NULL || (series->flags & (IS_LIVE | IS_NULL)) != IS_LIVE)
        return NULL;
    return &tag_set->others[series->entry];
}

static PyObject *
others_of(const Series *series)
{
    PyObject **place = others_place(series);
    return place ? *place : NULL;
}

/* Forget them. What is released has no finalizer, so that this runs no Python. */
static void
others_clear(const Series *series)
{
    PyObject **place = others_place(series);
    if (place != NULL)
        Py_CLEAR(*place);
}

static int64_t
others_ns(const Series *series, int field)
{
    PyObject *others = others_of(series);
    return others ? PyLong_AsLongLong(PyTuple_GetItem(others, field)) : 0;
}

static int64_t
series_last_ns(const Series *series)
{
    int64_t own = state_last_ns(series->slot->kind, series->state), others = others_ns(series, OTHERS_LAST);
    return own > others ? own : others;
}

static int64_t
series_created_ns(const Series *series)
{
    int64_t own = state_created_ns(series->slot->kind, series->state), others = others_ns(series, OTHERS_CREATED);
    return own == 0 || (others != 0 && others < own) ? others : own;
}

static PyTypeObject *
aggregate_type(const State *state, int kind)
{
    return kind == COUNTER        ? state->counter
           : kind == GAUGE        ? state->gauge
           : kind == DISTRIBUTION ? state->distribution
                                  : state->outcome;
}

/* The law by which two processes' values of one gauge are combined. */
static int
series_law(const Series *series, unsigned flags)
{
    return series->slot->has_law ? series->slot->law : flags & STEPPED ? SUM : LATEST;
}

/* Return an aggregate combined with what other processes recorded; NULL without an error if there is neither.
 * Steals `own`, which may be NULL, and borrows `others`. */
static PyObject *
combined_with(const Series *series, PyObject *own, PyObject *others)
{
    State *state = CORE(series)->state;
    PyObject *more = others ? PyTuple_GetItem(others, OTHERS_AGGREGATE) : NULL, *result;
    if (more == NULL)
        return own;
    if (own == NULL)
        return Py_NewRef(more);
    switch (series->slot->kind) {
    case COUNTER:
        result = counter_merge((CounterAggregate *)own, more);
        break;
    case GAUGE:
        result = gauge_combined((GaugeAggregate *)own, (GaugeAggregate *)more,
                                series_law(series, ((GaugeAggregate *)own)->flags | ((GaugeAggregate *)more)->flags));
        break;
    case DISTRIBUTION:
        result = distribution_merge((Distribution *)own, more);
        break;
    default:
        result = outcome_merged(own, more, state->error_types);
    }
    Py_DECREF(own);
    return result;
}

/* ---- recording ------------------------------------------------------------------------------------------- */

/* What a record closed, so that it is published after it. */
enum { CLOSED_SLOT = 1, CLOSED_RECENT = 2 };

static void
log_record(Series *series, Number value, Number number, int32_t error_type, int64_t now)
{
    Core *core = CORE(series);
    for (size_t i = 0; i < core->log_count; i++) {
        RecordLog *log = core->logs[i];
        if (log->count == log->capacity) {
            size_t capacity = log->capacity ? log->capacity * 2 : 256;
            if (capacity > log->limit)
                capacity = log->limit;
            struct LogEntry *entries =
                capacity > log->capacity && !log->lost ? REALLOC(log->entries, capacity * sizeof *entries) : NULL;
            if (entries == NULL) {
                log->lost++;
                continue;
            }
            log->entries = entries;
            log->capacity = capacity;
        }
        if (log->lost) { /* all that are lost come after all that are kept */
            log->lost++;
            continue;
        }
        struct LogEntry *entry = &log->entries[log->count++];
        entry->series = (Series *)Py_NewRef((PyObject *)series);
        entry->value = value;
        entry->number = number;
        entry->count = state_records(series->slot->kind, series->state);
        entry->now_ns = now;
        entry->error_type = error_type;
    }
}

/* Begin a record: states and slots are there, and open. Returns -1 with an error. Runs no Python. */
static inline int
record_begin(Series *series, int64_t now, int *closed)
{
    int rolled = slot_enter(series->slot, now);
    if (UNLIKELY(rolled < 0))
        return -1;
    *closed = rolled;
    if (UNLIKELY(series->state == NULL) && series_reserve(series) != 0)
        return -1;
    if (series->recent != NULL) {
        rolled = slot_enter(series->recent, now);
        if (UNLIKELY(rolled < 0))
            return -1;
        *closed |= rolled ? CLOSED_RECENT : 0;
    }
    return 0;
}

static inline void
record_end(Series *series)
{
    HEADER(&CORE(series)->page)->records++;
    series->coarse = series->slot->coarse;
}

static inline void
count_counter(CounterState *c, Number value, int64_t now)
{
    unsigned flags = (unsigned)c->flags;
    if (c->count++ == 0)
        c->created_ns = now > 0 ? now : 1;
    if (now > c->last_ns) /* an injected clock may be read before another thread records */
        c->last_ns = now;
    if (value.is_int)
        add_integer(&c->integer, &c->real, &c->error, &flags, value.i);
    else {
        flags |= HAS_REAL;
        add_real(&c->real, &c->error, value.d);
    }
    c->flags = flags;
}

static inline int
record_counter(Series *series, Number value, int64_t now)
{
    int closed;
    if (UNLIKELY(record_begin(series, now, &closed) != 0))
        return -1;
    Page *page = &CORE(series)->page;
    CounterState *mine = series->state, *open = series->slot->open;
    CounterState *recent = series->recent ? series->recent->open : NULL;
    touch(page, mine);
    touch(page, open);
    if (recent)
        touch(page, recent);
    page_publish(page);
    count_counter(mine, value, now);
    count_counter(open, value, now);
    if (recent)
        count_counter(recent, value, now);
    page_done(page);
    record_end(series);
    if (UNLIKELY(CORE(series)->log_count)) {
        Sum sum = {mine->integer, mine->real, mine->error, (unsigned)mine->flags};
        log_record(series, value,
                   sum_is_integer(&sum) ? integer_number(sum.integer) : real_number(sum_real(&sum)), -1, now);
    }
    return closed;
}

static inline void
touch_gauge(Page *page, GaugeState *g, const GaugeChange *change)
{
    touch(page, g);
    if (g->flags != change->flags)
        touch(page, &g->flags);
}

/* Count a gauge whose extremes, kind or whole may change; after it comes `page_done`. */
static NOINLINE void
record_any_gauge(Series *series, Number value, int is_step, int64_t now)
{
    Page *page = &CORE(series)->page;
    GaugeState *mine = series->state, *open = series->slot->open;
    GaugeState *recent = series->recent ? series->recent->open : NULL;
    if (is_step)
        value = gauge_moved(mine->flags & STARTED ? word_number(mine->last, mine->flags & LAST_INT) : integer_number(0),
                            value);
    Number whole = whole_after(series->slot, series, &value);
    unsigned extra = is_step ? STEPPED : 0;
    GaugeChange my_change = gauge_change(mine, value, extra), open_change = gauge_change(open, whole, extra), change;
    touch_gauge(page, mine, &my_change);
    touch_gauge(page, open, &open_change);
    if (recent) {
        change = gauge_change(recent, value, extra);
        touch_gauge(page, recent, &change);
    }
    page_publish(page);
    gauge_apply(mine, &my_change, now, 1);
    gauge_apply(open, &open_change, now, 1);
    if (recent)
        gauge_apply(recent, &change, now, 1);
}

static inline int
record_gauge(Series *series, Number value, int is_step, int64_t now)
{
    int closed;
    if (UNLIKELY(record_begin(series, now, &closed) != 0))
        return -1;
    Page *page = &CORE(series)->page;
    GaugeState *mine = series->state, *open = series->slot->open;
    GaugeState *recent = series->recent ? series->recent->open : NULL;
    if (!is_step && LIKELY(series->slot->law == LATEST && gauge_spans(mine, value) && gauge_spans(open, value) &&
                           (recent == NULL || gauge_spans(recent, value)))) {
        touch(page, mine);
        touch(page, open);
        if (recent)
            touch(page, recent);
        page_publish(page);
        gauge_apply_spanned(mine, value, now);
        gauge_apply_spanned(open, value, now);
        if (recent)
            gauge_apply_spanned(recent, value, now);
    }
    else
        record_any_gauge(series, value, is_step, now);
    page_done(page);
    record_end(series);
    if (UNLIKELY(CORE(series)->log_count)) {
        value = word_number(mine->last, mine->flags & LAST_INT);
        log_record(series, value, value, -1, now);
    }
    return closed;
}

static inline int
record_value(Series *series, Number value, int failed, int64_t now)
{
    int closed;
    Place mine, open, recent;
    Slot *slot = series->slot;
    if (UNLIKELY(record_begin(series, now, &closed) != 0))
        return -1;
    Page *page = &CORE(series)->page;
    recent.state = NULL;
    /* The counts by bounds are seeded while the values are exact: the place of this one may turn them into buckets. */
    if (slot->limit_count && UNLIKELY(((DistributionState *)series->state)->bounds == 0) &&
        bounds_begin(page, series->state, slot->limits, slot->limit_count, 1) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t index = NO_INDEX;
    if (UNLIKELY(distribution_place(page, series->state, value.d, &index, &mine) != 0 ||
                 distribution_place(page, slot->open, value.d, &index, &open) != 0 ||
                 (series->recent &&
                  distribution_place(page, series->recent->open, value.d, &index, &recent) != 0))) {
        PyErr_NoMemory();
        return -1;
    }
    if (slot->limit_count) {
        BoundsSum *sum = AT(page, mine.state->bounds);
        mine.bound = (uint64_t *)(sum + 1) + bound_place(slot->limits, slot->limit_count, value.d);
        mine.bound_sum = sum->began_later ? sum : NULL;
    }
    uint32_t second = (uint32_t)((uint64_t)now / 1000000000u);
    distribution_touch(page, &mine, failed);
    distribution_touch(page, &open, failed);
    if (recent.state)
        distribution_touch(page, &recent, failed);
    page_publish(page);
    distribution_count(&mine, value, now, second, failed);
    distribution_count(&open, value, now, second, failed);
    if (recent.state)
        distribution_count(&recent, value, now, second, failed);
    page_done(page);
    record_end(series);
    if (UNLIKELY(CORE(series)->log_count))
        log_record(series, value, integer_number(0), -1, now);
    return closed;
}

/* Make room for the count of an error type. Returns -1 with an error. */
static int
outcome_reserve(Page *page, OutcomeState *o, int32_t error_type)
{
    size_t size = ((size_t)error_type + 1) * 8;
    if (o->block && size <= class_size((int)o->class))
        return 0;
    int class = class_of(size < 16 ? 16 : size), old_class = (int)o->class;
    uint64_t block = size <= LARGEST_BLOCK ? page_alloc(page, class) : 0, old = o->block;
    if (block == 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (old)
        memcpy(AT(page, block), AT(page, old), class_size(old_class));
    touch(page, o);
    page_publish(page);
    o->block = block;
    o->class = (uint64_t)class;
    page_done(page);
    page_free(page, old, old_class);
    return 0;
}

static inline void
touch_outcome(Page *page, const OutcomeState *o, int32_t error_type)
{
    touch(page, o);
    if (error_type >= 0)
        touch(page, (uint64_t *)AT(page, o->block) + error_type);
}

static inline void
count_outcome(Page *page, OutcomeState *o, int32_t error_type, int64_t now)
{
    if (o->created_ns == 0)
        o->created_ns = now > 0 ? now : 1;
    if (now > o->last_ns)
        o->last_ns = now;
    if (error_type < 0)
        o->successes++;
    else {
        o->failures++;
        ((uint64_t *)AT(page, o->block))[error_type]++;
    }
}

/* Count an ending: the place of its error type, or -1 for a success. */
static int
record_outcome(Series *series, int32_t error_type, int64_t now)
{
    int closed;
    if (UNLIKELY(record_begin(series, now, &closed) != 0))
        return -1;
    Page *page = &CORE(series)->page;
    OutcomeState *mine = series->state, *open = series->slot->open;
    OutcomeState *recent = series->recent ? series->recent->open : NULL;
    if (error_type >= 0 && (outcome_reserve(page, mine, error_type) != 0 || outcome_reserve(page, open, error_type) != 0 ||
                            (recent && outcome_reserve(page, recent, error_type) != 0)))
        return -1;
    if (error_type >= 0 && page->file >= 0 && series->slot->header[3] <= (uint64_t)error_type)
        names_enter(series->slot, (uint32_t)error_type + 1);
    touch_outcome(page, mine, error_type);
    touch_outcome(page, open, error_type);
    if (recent)
        touch_outcome(page, recent, error_type);
    page_publish(page);
    count_outcome(page, mine, error_type, now);
    count_outcome(page, open, error_type, now);
    if (recent)
        count_outcome(page, recent, error_type, now);
    page_done(page);
    record_end(series);
    if (UNLIKELY(CORE(series)->log_count))
        log_record(series, integer_number(0), integer_number((int64_t)mine->successes), error_type, now);
    return closed;
}

static NOINLINE int
publish_closed(Series *series, int closed)
{
    int result = 0;
    Py_INCREF((PyObject *)series);
    if (closed & CLOSED_SLOT)
        result = slot_published(series->slot);
    PyObject *publish = CORE(series)->publish_recent;
    if (result == 0 && closed & CLOSED_RECENT && publish != NULL) {
        Py_INCREF(publish);
        PyObject *answer = PyObject_CallFunctionObjArgs(publish, (PyObject *)series, NULL);
        Py_DECREF(publish);
        Py_XDECREF(answer);
        result = answer == NULL ? -1 : 0;
    }
    Py_DECREF((PyObject *)series);
    return result;
}

static inline PyObject *
recorded(Series *series, int closed)
{
    if (UNLIKELY(closed != 0)) {
        if (closed < 0 || publish_closed(series, closed) != 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Whether a record has to do something first that may run Python: the garbage collector, to begin with. */
static inline int
wants_recent(const Series *series, int64_t now)
{
    if (series->recent != NULL)
        return 0;
    uint32_t coarse = LIKELY(now < series->slot->end_ns) ? series->slot->coarse
                                                         : (uint32_t)((uint64_t)now / (uint64_t)RECENT_NS);
    return series->coarse != coarse && series->state != NULL &&
           state_records(series->slot->kind, series->state) != 0;
}

static Slot *slot_make(Core *core, int kind, ErrorTypes *types, int64_t width_ns);

/* Give a series its recent slot, or note that it has to do without. May run the garbage collector. */
static NOINLINE int
give_recent(Series *series, int64_t now)
{
    Core *core = CORE(series);
    if (!core->allows_recent) {
        series->flags |= RECENT_MISSED;
        series->coarse = (uint32_t)((uint64_t)now / (uint64_t)RECENT_NS);
        return 0;
    }
    Slot *recent = slot_make(core, series->slot->kind, series->slot->types, RECENT_NS);
    if (recent == NULL)
        return -1;
    if (!wants_recent(series, now)) { /* another one was faster, or it was emptied meanwhile */
        Py_DECREF((PyObject *)recent);
        return 0;
    }
    recent->keeps_closed = 1;
    recent->recent_from_ns = now - now % RECENT_NS;
    recent->directory = series->directory;
    series->recent = recent;
    return 0;
}

/* The general way into a series: it may be null, or not live. Borrows `series`; `value` is NULL for 1. */
enum { ADD, SET, STEP_UP, STEP_DOWN, OBSERVE };

static int
owner_number(const Series *series, PyObject *value, int is_signed, Number *number)
{
    State *state = CORE(series)->state;
    PyObject *checked = PyObject_CallMethodObjArgs(series->tag_set->owner, state->s_number, value,
                                                   is_signed ? Py_True : Py_False, NULL);
    if (checked == NULL)
        return -1;
    if (checked == Py_None) {
        Py_DECREF(checked);
        return 0;
    }
    int result = checked_number(checked, number);
    Py_DECREF(checked);
    return result == 0 ? 1 : -1;
}

/* Return a new reference to the live series that replaces this one; NULL without an error if its record is refused. */
static Series *
series_live(Series *series)
{
    State *state = CORE(series)->state;
    Series *live = (Series *)Py_NewRef((PyObject *)series);
    for (int tries = 0; !(live->flags & IS_LIVE); tries++) {
        PyObject *next = PyObject_CallMethodObjArgs(live->tag_set->owner, state->s_readmit, (PyObject *)live, NULL);
        Py_DECREF((PyObject *)live);
        if (next == NULL)
            return NULL;
        if (next == Py_None || Py_TYPE(next) != Py_TYPE((PyObject *)series) || ((Series *)next)->flags & IS_NULL) {
            Py_DECREF(next);
            return NULL;
        }
        live = (Series *)next;
        if (tries > 100) { /* another thread removes it each time: drop the record instead of looping */
            Py_DECREF(next);
            return NULL;
        }
    }
    return live;
}

/* Find the live series and read the clock. After that, no Python code runs. */
static Series *
series_enter(Series *series, int64_t *now)
{
    Series *live;
    if (core_now(CORE(series), now) != 0)
        return NULL;
    live = series_live(series);
    if (live != NULL && UNLIKELY(wants_recent(live, *now))) {
        if (give_recent(live, *now) != 0) {
            Py_DECREF((PyObject *)live);
            return NULL;
        }
        if (!(live->flags & IS_LIVE)) {
            Series *again = series_live(live);
            Py_DECREF((PyObject *)live);
            live = again;
            if (live != NULL && wants_recent(live, *now))
                live->flags |= RECENT_MISSED;
        }
    }
    return live;
}

static NOINLINE PyObject *
series_record(Series *series, PyObject *value, int way)
{
    Number number = integer_number(1);
    int64_t now;
    PyObject *result = NULL;
    if (value != NULL && PyBool_Check(value) && way != ADD && way != OBSERVE)
        number = integer_number(value == Py_True); /* a gauge may be a yes or a no */
    else if (value != NULL && (!exact_number(value, &number) || (way == ADD && number.d < 0))) {
        int ok = owner_number(series, value, way != ADD, &number);
        if (ok < 0)
            return NULL;
        if (ok == 0)
            Py_RETURN_NONE;
    }
    if (way == STEP_DOWN)
        number = negated(number);
    if (series->flags & IS_NULL)
        Py_RETURN_NONE;
    Series *live = series_enter(series, &now);
    if (live == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    switch (way) {
    case ADD:
        result = recorded(live, record_counter(live, number, now));
        break;
    case OBSERVE:
        result = recorded(live, record_value(live, number, 0, now));
        break;
    default:
        result = recorded(live, record_gauge(live, number, way != SET, now));
    }
    Py_DECREF((PyObject *)live);
    return result;
}

/* Whether a record can go straight to a series. */
static inline int
is_ready(const Series *series, int64_t now)
{
    return LIKELY((series->flags & (IS_LIVE | IS_NULL)) == IS_LIVE) && LIKELY(!wants_recent(series, now));
}

static NOINLINE PyObject *
series_elapse(Series *series, double milliseconds, int failed)
{
    int64_t now;
    if (!isfinite(milliseconds)) {
        PyErr_SetString(PyExc_ValueError, "the duration is not finite");
        return NULL;
    }
    if (series->flags & IS_NULL)
        Py_RETURN_NONE;
    Series *live = series_enter(series, &now);
    if (live == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    PyObject *result = recorded(live, record_value(live, real_number(milliseconds), failed, now));
    Py_DECREF((PyObject *)live);
    return result;
}

static NOINLINE PyObject *
series_observe_duration(Series *series, PyObject *duration, PyObject *unit)
{
    State *state = CORE(series)->state;
    Number number;
    double per_unit = unit == NULL || unit == state->milliseconds ? 1.0
                      : unit == state->seconds                    ? 1e3
                      : unit == state->microseconds               ? 1e-3
                                                                  : 0.0;
    if (per_unit == 0.0 || !exact_number(duration, &number) || !(number.d >= 0) || !isfinite(number.d * per_unit)) {
        PyObject *checked = PyObject_CallMethodObjArgs(series->tag_set->owner, state->s_milliseconds, duration,
                                                       unit ? unit : state->milliseconds, NULL);
        if (checked == NULL || checked == Py_None)
            return checked;
        int result = checked_number(checked, &number);
        Py_DECREF(checked);
        if (result != 0)
            return NULL;
        per_unit = 1.0;
    }
    return series_elapse(series, number.d * per_unit, 0);
}

/* Return the place of an error type; -1 for None, -2 if it was refused, -3 with an error. */
static int32_t
error_type_place(Series *series, PyObject *error_type)
{
    ErrorTypes *types = series->slot->types;
    if (error_type == Py_None)
        return -1;
    Py_ssize_t place = error_types_place(types, error_type);
    if (LIKELY(place >= 0))
        return (int32_t)place;
    PyObject *admitted = PyObject_CallMethodObjArgs(series->tag_set->owner, CORE(series)->state->s_error_type,
                                                    error_type, NULL);
    if (admitted == NULL)
        return -3;
    if (admitted == Py_None) {
        Py_DECREF(admitted);
        return -2;
    }
    if (!PyUnicode_CheckExact(admitted)) {
        PyErr_Format(PyExc_TypeError, "the error type %R is not a string", admitted);
        Py_DECREF(admitted);
        return -3;
    }
    int failed = series->slot->types == NULL || error_types_append(types, admitted) != 0;
    place = failed ? -3 : error_types_place(types, admitted);
    Py_DECREF(admitted);
    return (int32_t)place;
}

static NOINLINE PyObject *
series_finish(Series *series, PyObject *error_type)
{
    int64_t now;
    if (series->flags & IS_NULL)
        Py_RETURN_NONE;
    int32_t place = error_type_place(series, error_type);
    if (place == -2)
        Py_RETURN_NONE;
    if (place == -3)
        return NULL;
    Series *live = series_enter(series, &now);
    if (live == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    if (place >= 0 && live->slot->types != series->slot->types) {
        /* The name was removed and is another operation now, with error types of its own. */
        PyObject *result = series_finish(live, error_type);
        Py_DECREF((PyObject *)live);
        return result;
    }
    PyObject *result = recorded(live, record_outcome(live, place, now));
    Py_DECREF((PyObject *)live);
    return result;
}

/* ---- the types of core, slots, tag sets and series -------------------------------------------------------- */

static void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static State *
state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

#define NEEDS_TYPE(object, type, name)                                                                                 \
    if (!PyObject_TypeCheck(object, type)) {                                                                           \
        PyErr_Format(PyExc_TypeError, "%R is not a " name, object);                                                    \
        return NULL;                                                                                                   \
    }

/* -- Core -- */

static PyObject *module_monotonic_ns(PyObject *module, PyObject *unused);

static PyObject *
core_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"now", NULL};
    PyObject *now = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Core", names, &now))
        return NULL;
    if (now != Py_None && !PyCallable_Check(now)) {
        PyErr_Format(PyExc_TypeError, "now=%R is not callable: pass a function that returns nanoseconds", now);
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    State *state = module ? PyModule_GetState(module) : NULL;
    if (state == NULL)
        return NULL;
    PyObject *own = PyObject_GetAttrString(module, "monotonic_ns");
    if (own == NULL)
        return NULL;
    int is_own = now == own;
    Py_DECREF(own);
    Core *self = (Core *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->module = Py_NewRef(module);
    self->now = now == Py_None || is_own ? NULL : Py_NewRef(now);
    self->publish_at = 1;
    if (page_open(&self->page) != 0) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
core_traverse(PyObject *object, visitproc visit, void *arg)
{
    Core *self = (Core *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->now);
    Py_VISIT(self->publish_recent);
    Py_VISIT(self->module);
    return 0;
}

static int
core_clear(PyObject *object)
{
    Core *self = (Core *)object;
    Py_CLEAR(self->publish_recent);
    return 0; /* series still need the clock */
}

static void
core_dealloc(PyObject *object)
{
    Core *self = (Core *)object;
    PyObject_GC_UnTrack(object);
    core_clear(object);
    Py_CLEAR(self->now);
    Py_CLEAR(self->module);
    page_close(&self->page);
    free(self->tables);
    free(self->free_indexes);
    free(self->slots);
    free(self->logs);
    free_object(object);
}

static PyObject *
core_method_now(Core *self, PyObject *unused)
{
    int64_t now;
    return core_now(self, &now) != 0 ? NULL : PyLong_FromLongLong(now);
}

static void log_empty(RecordLog *log);

static PyObject *
core_reset(Core *self, PyObject *unused)
{
#ifdef HAS_SHARING
    if (self->page.file >= 0 && page_unshare(&self->page, 0) != 0)
        return PyErr_NoMemory();
#endif
    /* First reset all numbers in one step, then release objects: that may run other code. */
    for (size_t i = 0; i < self->slot_count; i++) {
        Slot *slot = self->slots[i];
        slot->header = NULL;
        slot->open = slot->closed = NULL;
        slot->open_ns = 0;
        slot->end_ns = INT64_MIN;
        slot->whole_is_stale = 1;
        for (uint32_t m = 0; m < slot->member_count; m++) {
            Series *series = slot->members[m];
            series->state = NULL;
            others_clear(series);
            series->generation++;
            series->coarse = 0;
            series->directory = 0;
            series->flags &= ~(uint32_t)RECENT_MISSED;
        }
    }
    zero_range(self->page.base, self->page.committed);
    page_begin(&self->page);
    directory_reset(self);
    for (size_t i = 0; i < self->slot_count; i++) {
        slot_drop_waiting(self->slots[i], self->slots[i]->waiting_count);
        Py_CLEAR(self->slots[i]->windows);
    }
    for (int found = 1; found;) { /* a slot that goes changes the list */
        found = 0;
        for (size_t i = 0; i < self->slot_count; i++)
            for (uint32_t m = 0; m < self->slots[i]->member_count; m++)
                if (self->slots[i]->members[m]->recent != NULL) {
                    Slot *recent = self->slots[i]->members[m]->recent;
                    self->slots[i]->members[m]->recent = NULL;
                    Py_DECREF((PyObject *)recent);
                    found = 1;
                }
    }
    for (size_t i = 0; i < self->log_count; i++) {
        log_empty(self->logs[i]);
        self->logs[i]->start = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *
core_share(Core *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", "generation", "worker", "process_start", "boot", "anchor_monotonic", "anchor_wall", NULL};
    PyObject *path = NULL;
    unsigned long long generation = 0, worker = 0, process_start = 0;
    long long anchor_monotonic = 0, anchor_wall = 0;
    const char *boot = "";
    Py_ssize_t boot_length = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|$KKKy#LL:share", names, PyUnicode_FSConverter, &path, &generation,
                                     &worker, &process_start, &boot, &boot_length, &anchor_monotonic, &anchor_wall))
        return NULL;
    PyObject *result = NULL;
#ifdef HAS_SHARING
    Page *page = &self->page;
    const char *final = PyBytes_AsString(path);
    size_t length = strlen(final);
    char *draft = NULL;
    if (boot_length > 16)
        PyErr_Format(PyExc_ValueError, "boot has %zd bytes: pass at most 16", boot_length);
    else if (page->file >= 0)
        PyErr_SetString(PyExc_RuntimeError, "the core is shared already: call unshare() or reset() first");
    else if (HEADER(page)->records || page->top != HEAP_START)
        PyErr_SetString(PyExc_RuntimeError, "the core has records: share it before the first one or after reset()");
    else if ((draft = malloc(length + 2)) == NULL)
        PyErr_NoMemory();
    if (draft == NULL)
        goto done;
    uint64_t counters[3];
    memcpy(counters, HEADER(page)->counters, sizeof counters);
    memcpy(draft, final, length);
    memcpy(draft + length, "~", 2);
    errno = access(final, F_OK) == 0 ? EEXIST : 0;
    if (errno || page_share(page, draft) != 0) {
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, final);
        memcpy(HEADER(page)->counters, counters, sizeof counters);
        goto done;
    }
    Header *header = HEADER(page);
    header->generation = generation;
    header->worker = worker;
    header->process_start = process_start;
    header->anchor_monotonic = (uint64_t)anchor_monotonic;
    header->anchor_wall = (uint64_t)anchor_wall;
    memcpy(header->boot, boot, (size_t)boot_length);
    memcpy(header->counters, counters, sizeof counters);
    if (rename(draft, final) != 0) { /* a reader never finds a page that is not complete */
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, final);
        unlink(draft);
        if (page_unshare(page, 1) != 0) {
            PyErr_Clear();
            PyErr_NoMemory();
        }
        directory_reset(self);
        goto done;
    }
    directory_reset(self);
    page->share = shares;
    self->was_shared = 1;
    result = Py_NewRef(Py_None);
done:
    free(draft);
#else
    PyErr_SetString(PyExc_NotImplementedError, "this platform cannot share pages");
#endif
    Py_DECREF(path);
    return result;
}

static PyObject *
core_unshare(Core *self, PyObject *unused)
{
#ifdef HAS_SHARING
    if (self->page.file >= 0 && page_unshare(&self->page, 1) != 0)
        return PyErr_NoMemory();
#endif
    Py_RETURN_NONE;
}

static PyObject *core_subscribe(Core *self, PyObject *capacity);
static PyObject *core_unsubscribe(Core *self, PyObject *log);

static PyObject *
core_get(Core *self, void *closure)
{
    switch (*(const char *)closure) {
    case 'r':
        return PyLong_FromUnsignedLongLong(HEADER(&self->page)->records);
    case 's':
        return PyBool_FromLong(self->page.file >= 0);
    case 'f':
        return PyBool_FromLong(self->page.is_full);
    case 'u':
        return PyLong_FromUnsignedLongLong(self->unshared_series);
    case 'n':
        return PyLong_FromUnsignedLongLong(self->page.used);
    case 'a':
        return PyBool_FromLong(self->allows_recent);
    case 'w':
        return PyLong_FromUnsignedLong(self->publish_at);
    default:
        return Py_NewRef(self->publish_recent ? self->publish_recent : Py_None);
    }
}

static int
core_set_allows_recent(Core *self, PyObject *value, void *closure)
{
    int is_true = value == NULL ? -1 : PyObject_IsTrue(value);
    if (is_true < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_AttributeError, "allows_recent cannot be deleted");
        return -1;
    }
    self->allows_recent = is_true;
    return 0;
}

static int
core_set_publish_at(Core *self, PyObject *value, void *closure)
{
    long number = value == NULL ? 0 : PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred())
        return -1;
    if (number < 1 || number > UINT16_MAX) {
        PyErr_Format(PyExc_ValueError, "publish_at must be 1 to %d", UINT16_MAX);
        return -1;
    }
    self->publish_at = (uint32_t)number;
    return 0;
}

static int
core_set_publish_recent(Core *self, PyObject *value, void *closure)
{
    PyObject *before = self->publish_recent;
    self->publish_recent = value == NULL || value == Py_None ? NULL : Py_NewRef(value);
    Py_XDECREF(before);
    return 0;
}

#ifdef METRICS_CORE_DEBUG
static PyObject *core_debug_check(Core *self, PyObject *unused);
#endif

static PyMethodDef core_methods[] = {
    {"now", (PyCFunction)core_method_now, METH_NOARGS, "now($self, /)\n--\n\nRead the clock, in nanoseconds."},
    {"reset", (PyCFunction)core_reset, METH_NOARGS,
     "reset($self, /)\n--\n\nEmpty every series, slot and log, in one step: after a fork. Objects stay valid.\n\n"
     "A shared core is private from then on."},
    {"share", (PyCFunction)(void (*)(void))core_share, METH_VARARGS | METH_KEYWORDS,
     "share($self, path, *, generation=0, worker=0, process_start=0, boot=b'', anchor_monotonic=0, anchor_wall=0)\n--\n\n"
     "Keep all numbers in a new file, which other processes read with `PageReader`.\n\n"
     "The file appears under its name once it is complete. A forked child leaves it before it runs any Python. A file\n"
     "that cannot grow goes on in private memory: see ``is_private``.\n\n"
     "Args:\n    path: The file, which must not exist. The same name with '~' is used on the way.\n"
     "    generation: What the header of the page states, like all further arguments.\n"
     "    worker: The number of this worker.\n"
     "    process_start: When this process started, in any unit.\n"
     "    boot: The id of the boot, at most 16 bytes.\n"
     "    anchor_monotonic: A moment on the clock of the records, in nanoseconds.\n"
     "    anchor_wall: The same moment in nanoseconds since 1970.\n\n"
     "Raises:\n    OSError: If it cannot be created, or the disk has no room for it. Then the core is private.\n"
     "    RuntimeError: If the core has records, or is shared.\n"
     "    NotImplementedError: On Windows."},
    {"unshare", (PyCFunction)core_unshare, METH_NOARGS,
     "unshare($self, /)\n--\n\nGo on in private memory with the same numbers. The file stays as it is."},
    {"subscribe", (PyCFunction)core_subscribe, METH_O,
     "subscribe($self, capacity, /)\n--\n\nWrite records to a new log from now on.\n\n"
     "Args:\n    capacity: The number of records that the log holds."},
    {"unsubscribe", (PyCFunction)core_unsubscribe, METH_O,
     "unsubscribe($self, log, /)\n--\n\nWrite no more records to a log."},
#ifdef METRICS_CORE_DEBUG
    {"debug_check", (PyCFunction)core_debug_check, METH_NOARGS,
     "debug_check($self, /)\n--\n\nCheck from now on that each record changes only lines that it put into the log."},
#endif
    {NULL},
};

static PyGetSetDef core_getset[] = {
    {"records", (getter)core_get, NULL, "The number of records of all series since the start or the last reset.", "r"},
    {"nbytes", (getter)core_get, NULL, "The bytes of numeric state that are in use.", "n"},
    {"is_shared", (getter)core_get, NULL, "Whether the numbers are in a file that other processes can read.", "s"},
    {"is_private", (getter)core_get, NULL,
     "Whether the file of a shared core could not grow, so that new numbers are in private memory.", "f"},
    {"unshared_series", (getter)core_get, NULL,
     "The number of series that other processes cannot find: their tags are too long, or there was no memory.", "u"},
    {"allows_recent", (getter)core_get, (setter)core_set_allows_recent, "Whether series may get a recent slot.", "a"},
    {"publish_at", (getter)core_get, (setter)core_set_publish_at,
     "How many closed slots of a second wait before their `publish` is called; 1 at first.", "w"},
    {"publish_recent", (getter)core_get, (setter)core_set_publish_recent,
     "Called with a series after the record that closed its recent slot.", "p"},
    {NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "Core(now=None)\n--\n\nThe numeric state of one store: its memory, its clock and its logs.\n\n"
                "Args:\n    now: Returns monotonic nanoseconds; None for the system clock, which is read in C."},
    {Py_tp_new, core_tp_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_traverse, core_traverse},
    {Py_tp_clear, core_clear},
    {Py_tp_methods, core_methods},
    {Py_tp_getset, core_getset},
    {0, NULL},
};

static PyType_Spec core_spec = {"metrics_framework.recording._core.Core", sizeof(Core), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, core_slots};

/* -- Slot -- */

static Slot *
slot_make(Core *core, int kind, ErrorTypes *types, int64_t width_ns)
{
    Slot *self = (Slot *)PyType_GenericAlloc(core->state->slot, 0);
    if (self == NULL)
        return NULL;
    if (core->slot_count == core->slot_capacity) {
        size_t capacity = core->slot_capacity ? 2 * core->slot_capacity : 4;
        Slot **slots = REALLOC(core->slots, capacity * sizeof *slots);
        if (slots == NULL) {
            Py_DECREF((PyObject *)self);
            PyErr_NoMemory();
            return NULL;
        }
        core->slots = slots;
        core->slot_capacity = capacity;
    }
    self->place = core->slot_count;
    core->slots[core->slot_count++] = self;
    self->core = (Core *)Py_NewRef((PyObject *)core);
    self->kind = (uint8_t)kind;
    self->width_ns = width_ns;
    self->end_ns = INT64_MIN; /* no slot is open: any record opens one, also of a clock that begins below zero */
    self->whole_is_stale = 1;
    if (kind == OUTCOME)
        self->types = (ErrorTypes *)Py_NewRef((PyObject *)types);
    return self;
}

static PyObject *
slot_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"core", "kind", "publish", "error_types", "windows", NULL};
    State *state = state_of_type(type);
    PyObject *core, *publish = Py_None, *types = Py_None, *windows = Py_None;
    const char *name;
    int kind;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Os|OOO:Slot", names, &core, &name, &publish, &types, &windows))
        return NULL;
    NEEDS_TYPE(core, state->core, "Core");
    for (kind = 0; kind < KINDS && strcmp(name, KIND_NAMES[kind]) != 0; kind++)
        ;
    if (kind == KINDS) {
        PyErr_Format(PyExc_ValueError, "kind='%s' is not 'counter', 'gauge', 'distribution' or 'outcome'", name);
        return NULL;
    }
    if (kind == OUTCOME && types != Py_None) {
        NEEDS_TYPE(types, state->error_types, "ErrorTypes");
        Py_INCREF(types);
    }
    else if (kind == OUTCOME) {
        types = PyObject_CallNoArgs((PyObject *)state->error_types);
        if (types == NULL)
            return NULL;
    }
    else
        Py_INCREF(types);
    Slot *self = slot_make((Core *)core, kind, (ErrorTypes *)types, SLOT_NS);
    Py_DECREF(types);
    if (self == NULL)
        return NULL;
    self->publish = publish == Py_None ? NULL : Py_NewRef(publish);
    self->keeps_closed = publish != Py_None;
    self->windows = windows == Py_None ? NULL : Py_NewRef(windows);
    return (PyObject *)self;
}

static int
slot_traverse(PyObject *object, visitproc visit, void *arg)
{
    Slot *self = (Slot *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    Py_VISIT(self->publish);
    Py_VISIT(self->windows);
    return 0;
}

static int
slot_clear(PyObject *object)
{
    Slot *self = (Slot *)object;
    Py_CLEAR(self->publish);
    Py_CLEAR(self->windows);
    return 0; /* series still need the core, which holds no reference to them */
}

static void
slot_dealloc(PyObject *object)
{
    Slot *self = (Slot *)object;
    Core *core = self->core;
    PyObject_GC_UnTrack(object);
    slot_clear(object);
    if (self->waiting_count)
        slot_drop_waiting(self, self->waiting_count);
    if (core != NULL) {
        if (self->header != NULL) {
            state_free_blocks(&core->page, self->kind, self->open);
            state_free_blocks(&core->page, self->kind, self->closed);
            names_free(self);
            page_free(&core->page, OFFSET(&core->page, self->header), class_of(LINE + 2 * STATE_SIZES[self->kind]));
        }
        Slot *last = core->slots[--core->slot_count];
        core->slots[self->place] = last;
        last->place = self->place;
    }
    free(self->waiting);
    free(self->waiting_ns);
    free(self->members);
    free(self->limits);
    Py_CLEAR(self->bounds);
    Py_XDECREF((PyObject *)self->types);
    Py_XDECREF((PyObject *)core);
    free_object(object);
}

static PyObject *
slot_peek(Slot *self, PyObject *unused)
{
    /* The aggregates are copies that are made before anything that the garbage collector watches. */
    PyObject *open = slot_is_empty(self) ? NULL : aggregate_of(self, self->open), *closed = NULL, *last = NULL;
    PyObject **waiting = NULL, *windows = Py_NewRef(self->windows ? self->windows : Py_None), *result = NULL;
    int64_t *starts = NULL, open_ns = self->open_ns;
    uint32_t count = self->waiting_count;
    if (open == NULL && PyErr_Occurred())
        goto done;
    if (count) {
        waiting = MALLOC(count * sizeof *waiting);
        starts = MALLOC(count * sizeof *starts);
        if (waiting == NULL || starts == NULL) {
            PyErr_NoMemory();
            count = 0;
            goto done;
        }
        memcpy(starts, self->waiting_ns, count * sizeof *starts);
        for (uint32_t i = 0; i < count; i++)
            waiting[i] = Py_NewRef(self->waiting[i]);
    }
    closed = PyTuple_New(count);
    for (uint32_t i = 0; closed != NULL && i < count; i++) {
        PyObject *pair = Py_BuildValue("(LO)", (long long)starts[i], waiting[i]);
        if (pair == NULL || PyTuple_SetItem(closed, i, pair) != 0)
            Py_CLEAR(closed);
    }
    last = open ? Py_BuildValue("(LO)", (long long)open_ns, open) : Py_NewRef(Py_None);
    if (closed && last)
        result = PyTuple_Pack(3, windows, closed, last);
done:
    for (uint32_t i = 0; waiting != NULL && i < count; i++)
        Py_DECREF(waiting[i]);
    free(waiting);
    free(starts);
    Py_XDECREF(open);
    Py_XDECREF(closed);
    Py_XDECREF(last);
    Py_DECREF(windows);
    return result;
}

static PyObject *
slot_commit(Slot *self, PyObject *args)
{
    PyObject *before, *after, *now = self->windows ? self->windows : Py_None;
    unsigned int number;
    if (!PyArg_ParseTuple(args, "OOI:commit", &before, &after, &number))
        return NULL;
    now = self->windows ? self->windows : Py_None;
    if (now != before || number > self->waiting_count)
        Py_RETURN_FALSE;
    PyObject *old = self->windows;
    self->windows = after == Py_None ? NULL : Py_NewRef(after);
    slot_drop_waiting(self, number);
    Py_XDECREF(old);
    Py_RETURN_TRUE;
}

static PyObject *
slot_count_by(Slot *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bounds", "seed", NULL};
    PyObject *bounds;
    int seed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!$p:count_by", names, &PyTuple_Type, &bounds, &seed))
        return NULL;
    Py_ssize_t number = PyTuple_Size(bounds);
    if (self->kind != DISTRIBUTION) {
        if (number == 0)
            Py_RETURN_NONE;
        PyErr_Format(PyExc_TypeError, "a %s has no buckets", KIND_NAMES[self->kind]);
        return NULL;
    }
    if ((size_t)(number + 1 + BOUNDS_WORDS) * 8 > LARGEST_BLOCK) {
        PyErr_Format(PyExc_ValueError, "%zd bounds are too many: pass at most %d", number,
                     LARGEST_BLOCK / 8 - BOUNDS_WORDS - 1);
        return NULL;
    }
    double *limits = number ? MALLOC((size_t)number * 8) : NULL;
    if (number && limits == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < number; i++) {
        limits[i] = PyFloat_AsDouble(PyTuple_GetItem(bounds, i));
        if (limits[i] == -1.0 && PyErr_Occurred()) {
            free(limits);
            return NULL;
        }
    }
    Page *page = &self->core->page;
    PyObject *old = self->bounds;
    free(self->limits);
    self->limits = limits;
    self->limit_count = (size_t)number;
    self->bounds = number ? Py_NewRef(bounds) : NULL;
    int failed = 0;
    for (uint32_t i = 0; i < self->member_count; i++) {
        DistributionState *d = self->members[i]->state;
        if (d == NULL)
            continue;
        self->members[i]->generation++; /* invalidates `read_versions` */
        bounds_drop(page, d);           /* seeded at the next record, from the same values */
        if (number && !seed && d->count && bounds_begin(page, d, limits, (size_t)number, 0) != 0)
            failed = 1;
    }
    Py_XDECREF(old);
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *
slot_get(Slot *self, void *closure)
{
    switch (*(const char *)closure) {
    case 'c':
        return Py_NewRef((PyObject *)self->core);
    case 'k':
        return PyUnicode_FromString(KIND_NAMES[self->kind]);
    case 'e':
        return Py_NewRef(self->types ? (PyObject *)self->types : Py_None);
    case 'w':
        return Py_NewRef(self->windows ? self->windows : Py_None);
    case 'b':
        return self->bounds ? Py_NewRef(self->bounds) : PyTuple_New(0);
    default:
        return PyUnicode_FromString(LAW_NAMES[self->law]);
    }
}

static int
slot_set_law(Slot *self, PyObject *value, void *closure)
{
    int law = law_of_name(value ? value : Py_None, "law");
    if (law < 0)
        return -1;
    for (uint32_t i = 0; i < self->member_count; i++)
        self->members[i]->generation += others_of(self->members[i]) != NULL; /* invalidates `read_versions` */
    self->whole_is_stale |= law != self->law;
    self->law = (uint8_t)law;
    self->has_law = 1;
    return 0;
}

static PyMethodDef slot_methods[] = {
    {"peek", (PyCFunction)slot_peek, METH_NOARGS,
     "peek($self, /)\n--\n\nReturn windows, the closed slots that were not committed yet, and the open slot.\n\n"
     "A slot is a pair of its start in nanoseconds and its aggregate; None stands for an open slot without records."},
    {"commit", (PyCFunction)slot_commit, METH_VARARGS,
     "commit($self, before, after, number, /)\n--\n\nReplace the windows and drop the oldest closed slots, in one step."
     "\n\nReturns:\n    False if ``windows`` is not ``before`` any more or fewer slots wait: then nothing changed."},
    {"count_by", (PyCFunction)(void (*)(void))slot_count_by, METH_VARARGS | METH_KEYWORDS,
     "count_by($self, bounds, *, seed)\n--\n\nCount values by upper bounds.\n\n"
     "Args:\n    bounds: Ascending upper bounds; none to stop counting.\n"
     "    seed: Whether counts begin with the values so far; else they begin at zero."},
    {NULL},
};

static PyGetSetDef slot_getset[] = {
    {"core", (getter)slot_get, NULL, "The core that it belongs to.", "c"},
    {"kind", (getter)slot_get, NULL, "The kind of its series.", "k"},
    {"error_types", (getter)slot_get, NULL, "The error types of an operation; else None.", "e"},
    {"windows", (getter)slot_get, NULL, "The windows that `commit` put here; None at first.", "w"},
    {"bounds", (getter)slot_get, NULL, "The upper bounds that values are counted by.", "b"},
    {"law", (getter)slot_get, (setter)slot_set_law,
     "The merge law of a gauge of several series or processes: 'latest', 'sum', 'min' or 'max'. Until it is set, processes\n"
     "are summed if the gauge is incremented or decremented, and otherwise the latest value wins.", "l"},
    {NULL},
};

static PyType_Slot slot_type_slots[] = {
    {Py_tp_doc, "Slot(core, kind, publish=None, error_types=None, windows=None)\n--\n\n"
                "The open time slot that series count into, a second wide.\n\n"
                "Args:\n    core: The core that it belongs to.\n"
                "    kind: 'counter', 'gauge', 'distribution' or 'outcome'.\n"
                "    publish: Called with the slot right after a record that closed it, once enough of them wait.\n"
                "    error_types: The error types of an operation.\n"
                "    windows: The first value of ``windows``."},
    {Py_tp_new, slot_tp_new},
    {Py_tp_dealloc, slot_dealloc},
    {Py_tp_traverse, slot_traverse},
    {Py_tp_clear, slot_clear},
    {Py_tp_methods, slot_methods},
    {Py_tp_getset, slot_getset},
    {0, NULL},
};

static PyType_Spec slot_spec = {"metrics_framework.recording._core.Slot", sizeof(Slot), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slot_type_slots};

/* -- TagSet -- */

#define MAX_TAGS 32 /* more are found the slow way */

static inline uint64_t
mix(uint64_t hash, uint64_t more)
{
    hash = (hash ^ more) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 32);
}

static inline int
same_text(PyObject *a, PyObject *b)
{
    if (a == b)
        return 1;
    /* Both are exact strings, so that this runs no Python and cannot fail. It is faster than `PyUnicode_Compare`. */
    PyObject *same = PyUnicode_RichCompare(a, b, Py_EQ);
    Py_XDECREF(same);
    return same == Py_True;
}

/* Return the hash of exact strings, in the order of the names. */
static inline uint32_t
hash_values(PyObject *const *values, Py_ssize_t number)
{
    uint64_t hash = 0x2545F4914F6CDD1DULL;
    for (Py_ssize_t i = 0; i < number; i++)
        hash = mix(hash, (uint64_t)PyObject_Hash(values[i]));
    return (uint32_t)hash;
}

/* Return the series that was found last if it has the very same objects as values, as the literals of a loop are. */
static inline Series *
tag_set_latest(const TagSet *self, PyObject *const *values)
{
    if (UNLIKELY(self->latest >= self->entry_count))
        return NULL;
    Series *series = self->entries[self->latest];
    if (UNLIKELY(series == NULL))
        return NULL;
    for (Py_ssize_t i = 0; i < self->name_count; i++)
        if (series->values[i] != values[i])
            return NULL;
    return series;
}

static inline Series *
tag_set_find(const TagSet *self, PyObject *const *values, uint32_t hash)
{
    if (self->index == NULL)
        return NULL;
    uint32_t mask = self->index_size - 1;
    for (uint32_t place = hash & mask;; place = (place + 1) & mask) {
        uint32_t found = self->index[place];
        if (found == 0)
            return NULL;
        if ((found ^ hash) & ~mask || (found & mask) == mask)
            continue;
        Series *series = self->entries[(found & mask) - 1];
        PREFETCH(series->values);
        if (series->hash != hash)
            continue;
        /* What the comparison and the record read, all at the same time: with many series none of it is in a cache. */
        for (Py_ssize_t i = 0; i < self->name_count; i++)
            PREFETCH(series->values[i]);
        if (series->state != NULL) {
            PREFETCH(series->state);
            PREFETCH((uint8_t *)series->state + LINE);
        }
        if (series->recent != NULL)
            PREFETCH(&series->recent->open);
        Py_ssize_t i = 0;
        while (i < self->name_count && same_text(series->values[i], values[i]))
            i++;
        if (i == self->name_count)
            return series;
    }
}

static int
tag_set_rebuild(TagSet *self, uint32_t live)
{
    uint32_t size = 8, capacity = live + live / 4 + 2; /* fewer entries than words, so that no place is all ones */
    while (size * 2 < live * 3 + 6)
        size *= 2;
    Series **entries = MALLOC(capacity * sizeof *entries);
    uint32_t *index = MALLOC(size * sizeof *index);
    PyObject **others = self->others ? MALLOC(capacity * sizeof *others) : NULL;
    if (entries == NULL || index == NULL || (self->others != NULL && others == NULL)) {
        free(entries);
        free(index);
        free(others);
        return -1;
    }
    memset(index, 0, size * sizeof *index);
    if (others != NULL)
        memset(others, 0, capacity * sizeof *others);
    uint32_t count = 0;
    for (uint32_t i = 0; i < self->entry_count; i++) {
        Series *series = self->entries[i];
        if (series == NULL)
            continue;
        uint32_t place = series->hash & (size - 1);
        while (index[place])
            place = (place + 1) & (size - 1);
        entries[count] = series;
        if (others != NULL)
            others[count] = self->others[series->entry];
        series->entry = count++;
        index[place] = (series->hash & ~(size - 1)) | count;
    }
    free(self->entries);
    free(self->index);
    free(self->others);
    self->others = others;
    self->entries = entries;
    self->entry_count = count;
    self->entry_capacity = capacity;
    self->index = index;
    self->index_size = size;
    self->index_used = count;
    return 0;
}

static PyObject *
tag_set_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *argument_names[] = {"owner", "names", "key", NULL};
    PyObject *owner, *names, *key = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!|S:TagSet", argument_names, &owner, &PyTuple_Type, &names, &key))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_Size(names); i++)
        if (!PyUnicode_CheckExact(PyTuple_GetItem(names, i))) {
            PyErr_Format(PyExc_TypeError, "the tag name %R is not a string", PyTuple_GetItem(names, i));
            return NULL;
        }
    key = key ? Py_NewRef(key) : PyBytes_FromStringAndSize(NULL, 0);
    TagSet *self = key ? (TagSet *)PyType_GenericAlloc(type, 0) : NULL;
    if (self == NULL) {
        Py_XDECREF(key);
        return NULL;
    }
    self->owner = Py_NewRef(owner);
    self->names = Py_NewRef(names);
    self->key = key;
    self->name_count = PyTuple_Size(names);
    return (PyObject *)self;
}

static int
tag_set_traverse(PyObject *object, visitproc visit, void *arg)
{
    TagSet *self = (TagSet *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->owner);
    Py_VISIT(self->names);
    for (uint32_t i = 0; i < self->entry_count; i++) {
        Py_VISIT((PyObject *)self->entries[i]);
        if (self->others != NULL)
            Py_VISIT(self->others[i]);
    }
    return 0;
}

static int
tag_set_clear(PyObject *object)
{
    TagSet *self = (TagSet *)object;
    Series **entries = self->entries;
    PyObject **others = self->others;
    uint32_t count = self->entry_count;
    self->entries = NULL;
    self->others = NULL;
    self->entry_count = self->entry_capacity = self->live = 0;
    free(self->index);
    self->index = NULL;
    self->index_size = self->index_used = 0;
    for (uint32_t i = 0; i < count; i++)
        if (entries[i] != NULL) {
            entries[i]->flags &= ~(uint32_t)IS_LIVE;
            slot_leave(entries[i]->slot, entries[i]);
            if (others != NULL)
                Py_XDECREF(others[i]);
            Py_DECREF((PyObject *)entries[i]);
        }
    free(entries);
    free(others);
    return 0; /* series still need the owner; clearing the owner's own references breaks the cycle */
}

static void
tag_set_dealloc(PyObject *object)
{
    TagSet *self = (TagSet *)object;
    PyObject_GC_UnTrack(object);
    tag_set_clear(object);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->names);
    Py_CLEAR(self->key);
    free_object(object);
}

static Py_ssize_t
tag_set_length(PyObject *self)
{
    return ((TagSet *)self)->live;
}

static PyObject *
tag_set_series(TagSet *self, PyObject *unused)
{
    /* The list may be what starts the garbage collector: make it first, and again if series came meanwhile. */
    for (;;) {
        uint32_t count = self->live, filled = 0;
        PyObject *list = PyList_New(count);
        if (list == NULL)
            return NULL;
        if (count == self->live) {
            for (uint32_t i = 0; i < self->entry_count; i++)
                if (self->entries[i] != NULL)
                    PyList_SetItem(list, filled++, Py_NewRef((PyObject *)self->entries[i]));
            return list;
        }
        Py_DECREF(list);
    }
}

static PyObject *
tag_set_iter(PyObject *self)
{
    PyObject *list = tag_set_series((TagSet *)self, NULL), *iterator = list ? PyObject_GetIter(list) : NULL;
    Py_XDECREF(list);
    return iterator;
}

static PyObject *
tag_set_get(TagSet *self, PyObject *values)
{
    PyObject *plain[MAX_TAGS] = {NULL}, **many = plain;
    Series *found = NULL;
    if (!PyTuple_Check(values)) {
        PyErr_Format(PyExc_TypeError, "%R is not a tuple of tag values", values);
        return NULL;
    }
    if (PyTuple_Size(values) != self->name_count)
        Py_RETURN_NONE;
    if (self->name_count > MAX_TAGS && (many = MALLOC((size_t)self->name_count * sizeof *many)) == NULL)
        return PyErr_NoMemory();
    Py_ssize_t i = 0;
    while (i < self->name_count && PyUnicode_CheckExact(many[i] = PyTuple_GetItem(values, i)))
        i++;
    if (i == self->name_count)
        found = tag_set_find(self, many, hash_values(many, i));
    if (many != plain)
        free(many);
    return Py_NewRef(found ? (PyObject *)found : Py_None);
}

static PyObject *
tag_set_add(TagSet *self, PyObject *object)
{
    Series *series = (Series *)object;
    State *state = state_of_type(Py_TYPE((PyObject *)self));
    NEEDS_TYPE(object, state->series, "Series");
    if (series->tag_set != self) {
        PyErr_Format(PyExc_ValueError, "%R is of another tag set", object);
        return NULL;
    }
    Series *live = tag_set_find(self, series->values, series->hash);
    if (live != NULL)
        return Py_NewRef((PyObject *)live);
    if ((self->entry_count == self->entry_capacity || self->index == NULL ||
         (self->index_used + 1) * 3 > self->index_size * 2) &&
        tag_set_rebuild(self, self->live + 1) != 0)
        return PyErr_NoMemory();
    if (slot_join(series->slot, series) != 0)
        return NULL;
    uint32_t mask = self->index_size - 1, place = series->hash & mask;
    while (self->index[place] != 0 && (self->index[place] & mask) != mask)
        place = (place + 1) & mask;
    self->index_used += self->index[place] == 0;
    self->entries[self->entry_count] = (Series *)Py_NewRef(object);
    series->entry = self->entry_count++;
    self->index[place] = (series->hash & ~mask) | self->entry_count;
    self->live++;
    series->flags |= IS_LIVE;
    return Py_NewRef(object);
}

static PyObject *
tag_set_remove(TagSet *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 && (nargs != 3 || !PyDict_Check(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "remove() takes a series, or a series, a dict and a key");
        return NULL;
    }
    PyObject *object = args[0];
    Series *series = (Series *)object;
    State *state = state_of_type(Py_TYPE((PyObject *)self));
    PyObject *aggregate = NULL;
    NEEDS_TYPE(object, state->series, "Series");
    if (series->tag_set != self || !(series->flags & IS_LIVE))
        Py_RETURN_NONE;
    Slot *slot = series->slot;
    int64_t now = 0;
    if (slot->kind == GAUGE && slot->law != LATEST && core_now(slot->core, &now) != 0)
        return NULL;
    if (!(series->flags & IS_LIVE)) /* an injected clock removed it */
        Py_RETURN_NONE;
    if (series->state != NULL && state_records(slot->kind, series->state)) {
        aggregate = aggregate_of(slot, series->state);
        if (aggregate == NULL)
            return NULL;
    }
    int rolled = 0;
    if (slot->kind == GAUGE && slot->law != LATEST && aggregate != NULL) {
        rolled = slot_enter(slot, now);
        if (rolled < 0) {
            Py_DECREF(aggregate);
            return NULL;
        }
    }
    /* From here on nothing fails and no Python code runs, so that the note and the removal are one step. */
    if (nargs == 3 && PyDict_SetItem(args[1], args[2], aggregate ? aggregate : Py_None) != 0) {
        Py_XDECREF(aggregate);
        return NULL;
    }
    if (slot->kind == GAUGE && slot->law != LATEST && aggregate != NULL) {
        Page *page = &slot->core->page;
        GaugeState *open = slot->open;
        Number whole = whole_after(slot, series, NULL);
        GaugeChange change = gauge_change(open, whole, 0);
        touch_gauge(page, open, &change);
        page_publish(page);
        gauge_apply(open, &change, now, 0);
        page_done(page);
    }
    uint32_t mask = self->index_size - 1, place = series->hash & mask;
    while ((self->index[place] & mask) != series->entry + 1)
        place = (place + 1) & mask;
    self->index[place] = mask;
    self->entries[series->entry] = NULL;
    self->live--;
    slot_leave(slot, series);
    others_clear(series);
    series->flags &= ~(uint32_t)IS_LIVE;
    series_release(series);
    Slot *recent = series->recent;
    series->recent = NULL;
    if (self->live == 0) {
        self->entry_count = self->index_used = 0;
        memset(self->index, 0, self->index_size * sizeof *self->index);
    }
    Py_INCREF(object);
    Py_XDECREF((PyObject *)recent);
    Py_DECREF(object); /* the tag set's reference */
    if (rolled && slot_published(slot) != 0)
        Py_CLEAR(aggregate);
    Py_DECREF(object);
    if (aggregate == NULL && PyErr_Occurred())
        return NULL;
    return aggregate ? aggregate : Py_NewRef(Py_None);
}

static PyMemberDef tag_set_members[] = {
    {"owner", T_OBJECT, offsetof(TagSet, owner), READONLY, "The metric that it belongs to."},
    {"names", T_OBJECT, offsetof(TagSet, names), READONLY, "The tag names, sorted."},
    {NULL},
};

static PyObject *
tag_set_key(TagSet *self, void *closure)
{
    return Py_NewRef(self->key);
}

static int
tag_set_set_key(TagSet *self, PyObject *value, void *closure)
{
    PyObject *before = self->key;
    if (value == NULL || !PyBytes_CheckExact(value)) {
        PyErr_Format(PyExc_TypeError, "key=%R is not bytes", value ? value : Py_None);
        return -1;
    }
    self->key = Py_NewRef(value);
    /* Entries with the old key leave first, so that its block is free. No step of this runs Python. */
    for (uint32_t i = 0; i < self->entry_count; i++)
        if (self->entries[i] != NULL && self->entries[i]->directory != 0)
            directory_leave(self->entries[i]);
    for (uint32_t i = 0; i < self->entry_count; i++)
        if (self->entries[i] != NULL && self->entries[i]->state != NULL && CORE(self->entries[i])->page.file >= 0)
            directory_enter(self->entries[i]);
    Py_DECREF(before);
    return 0;
}

static PyGetSetDef tag_set_getset[] = {
    {"key", (getter)tag_set_key, (setter)tag_set_set_key,
     "What a shared page states about each of its series, before the tag values.", NULL},
    {NULL},
};

static PyMethodDef tag_set_methods[] = {
    {"series", (PyCFunction)tag_set_series, METH_NOARGS,
     "series($self, /)\n--\n\nReturn the live series, in order of arrival."},
    {"get", (PyCFunction)tag_set_get, METH_O,
     "get($self, values, /)\n--\n\nReturn the live series of these values, in the order of the names, or None."},
    {"add", (PyCFunction)tag_set_add, METH_O,
     "add($self, series, /)\n--\n\nMake a series live. If there is one with the same values, return that one instead."},
    {"remove", (PyCFunction)(void (*)(void))tag_set_remove, METH_FASTCALL,
     "remove($self, series, notes=..., key=..., /)\n--\n\nTake a live series out and empty it, in one step.\n\n"
     "Args:\n    series: The series.\n    notes: A dict in which to note what this returns, in the same step, if the\n"
     "        series is live.\n    key: The key of the note, whose hash runs no Python code.\n\n"
     "Returns:\n    What this process recorded; None if that is nothing, or the series is not live."},
    {NULL},
};

static PyType_Slot tag_set_slots[] = {
    {Py_tp_doc, "TagSet(owner, names, key=b'')\n--\n\nThe live series of a metric that have the same tag names.\n\n"
                "Args:\n    owner: The metric; see `Owner`.\n    names: The tag names, sorted.\n"
                "    key: What a shared page states about each of its series, before the tag values."},
    {Py_tp_new, tag_set_tp_new},
    {Py_tp_dealloc, tag_set_dealloc},
    {Py_tp_traverse, tag_set_traverse},
    {Py_tp_clear, tag_set_clear},
    {Py_tp_iter, tag_set_iter},
    {Py_sq_length, tag_set_length},
    {Py_tp_members, tag_set_members},
    {Py_tp_getset, tag_set_getset},
    {Py_tp_methods, tag_set_methods},
    {0, NULL},
};

static PyType_Spec tag_set_spec = {"metrics_framework.recording._core.TagSet", sizeof(TagSet), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, tag_set_slots};

/* -- Series -- */

static int
kind_of_series(const State *state, PyTypeObject *type)
{
    return type == state->counter_series   ? COUNTER
           : type == state->gauge_series   ? GAUGE
           : type == state->outcome_series ? OUTCOME
                                           : DISTRIBUTION;
}

static PyObject *
series_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"tag_set", "values", "slot", NULL};
    State *state = state_of_type(type);
    PyObject *tag_set, *values, *slot;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O", names, &tag_set, &PyTuple_Type, &values, &slot))
        return NULL;
    NEEDS_TYPE(tag_set, state->tag_set, "TagSet");
    NEEDS_TYPE(slot, state->slot, "Slot");
    Py_ssize_t number = PyTuple_Size(values);
    if (number != ((TagSet *)tag_set)->name_count) {
        PyErr_Format(PyExc_ValueError, "%R are not the values of %R", values, ((TagSet *)tag_set)->names);
        return NULL;
    }
    if (((Slot *)slot)->kind != kind_of_series(state, type)) {
        PyErr_Format(PyExc_TypeError, "the slot is of another kind: %s", KIND_NAMES[((Slot *)slot)->kind]);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < number; i++)
        if (!PyUnicode_CheckExact(PyTuple_GetItem(values, i))) {
            PyErr_Format(PyExc_TypeError, "the tag value %R is not a string", PyTuple_GetItem(values, i));
            return NULL;
        }
    Series *self = (Series *)PyType_GenericAlloc(type, number);
    if (self == NULL)
        return NULL;
    self->tag_set = (TagSet *)Py_NewRef(tag_set);
    self->slot = (Slot *)Py_NewRef(slot);
    for (Py_ssize_t i = 0; i < number; i++)
        self->values[i] = Py_NewRef(PyTuple_GetItem(values, i));
    self->hash = hash_values(self->values, number);
    self->flags = type == state->timer_series ? IS_TIMER : 0;
    return (PyObject *)self;
}

static PyObject *
series_null(PyObject *type, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    State *state = state_of_type(defining);
    if (nargs != 2 || (kwnames && PyTuple_Size(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "null() takes a core and an owner");
        return NULL;
    }
    NEEDS_TYPE(args[0], state->core, "Core");
    PyObject *tag_set = PyObject_CallFunction((PyObject *)state->tag_set, "O()", args[1]);
    PyObject *slot = PyObject_CallFunction((PyObject *)state->slot, "Os", args[0],
                                           KIND_NAMES[kind_of_series(state, (PyTypeObject *)type)]);
    PyObject *self = tag_set && slot ? PyObject_CallFunction(type, "O()O", tag_set, slot) : NULL;
    if (self != NULL)
        ((Series *)self)->flags |= IS_NULL | IS_LIVE;
    Py_XDECREF(tag_set);
    Py_XDECREF(slot);
    return self;
}

static int
series_traverse(PyObject *object, visitproc visit, void *arg)
{
    Series *self = (Series *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->tag_set);
    Py_VISIT((PyObject *)self->slot);
    Py_VISIT((PyObject *)self->recent);
    return 0;
}

static void
series_dealloc(PyObject *object)
{
    Series *self = (Series *)object;
    PyObject_GC_UnTrack(object);
    if (self->slot != NULL)
        series_release(self); /* a tag set holds live series, so this one is not in a slot */
    Py_XDECREF((PyObject *)self->recent);
    Py_XDECREF((PyObject *)self->tag_set);
    Py_XDECREF((PyObject *)self->slot);
    for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
        Py_XDECREF(self->values[i]);
    free_object(object);
}

static PyObject *
series_get(Series *self, void *closure)
{
    int is_null = self->flags & IS_NULL;
    switch (*(const char *)closure) {
    case 'g':
        return Py_NewRef(is_null ? Py_None : (PyObject *)self->tag_set);
    case 's':
        return Py_NewRef(is_null ? Py_None : (PyObject *)self->slot);
    case 'o':
        return Py_NewRef(self->tag_set->owner);
    case 'l':
        return PyBool_FromLong(self->flags & IS_LIVE);
    case 'n':
        return PyBool_FromLong(is_null);
    case 'm':
        return PyBool_FromLong(self->flags & RECENT_MISSED);
    case 'c':
        return PyLong_FromLongLong(series_created_ns(self));
    case 'a':
        return PyLong_FromLongLong(series_last_ns(self));
    case 'r':
        return Py_NewRef(self->recent ? (PyObject *)self->recent : Py_None);
    case 'f':
        return PyLong_FromLongLong(self->recent ? self->recent->recent_from_ns : 0);
    case 'p':
        return PyBool_FromLong((self->state != NULL && ((GaugeState *)self->state)->flags & STEPPED) ||
                               (others_of(self) != NULL &&
                                ((GaugeAggregate *)PyTuple_GetItem(others_of(self), OTHERS_AGGREGATE))->flags & STEPPED));
    default: {
        PyObject *values = PyTuple_New(Py_SIZE((PyObject *)self));
        for (Py_ssize_t i = 0; values != NULL && i < Py_SIZE((PyObject *)self); i++)
            PyTuple_SetItem(values, i, Py_NewRef(self->values[i]));
        return values;
    }
    }
}

static PyObject *
series_tags(Series *self, void *closure)
{
    PyObject *tags = PyDict_New();
    for (Py_ssize_t i = 0; tags != NULL && i < Py_SIZE((PyObject *)self); i++)
        if (PyDict_SetItem(tags, PyTuple_GetItem(self->tag_set->names, i), self->values[i]) != 0)
            Py_CLEAR(tags);
    return tags;
}

/* Return what this process recorded; NULL without an error if that is nothing. */
static PyObject *
series_own(const Series *self)
{
    if (self->state == NULL || state_records(self->slot->kind, self->state) == 0)
        return NULL;
    return aggregate_of(self->slot, self->state);
}

static PyObject *
none_or_error(PyObject *object)
{
    return object != NULL || PyErr_Occurred() ? object : Py_NewRef(Py_None);
}

static PyObject *
series_own_state(Series *self, PyObject *unused)
{
    return none_or_error(series_own(self));
}

static PyObject *
series_state(Series *self, PyObject *unused)
{
    PyObject *own = series_own(self), *others = others_of(self), *result;
    if (own == NULL && PyErr_Occurred())
        return NULL;
    Py_XINCREF(others); /* merging outcomes may run the garbage collector */
    result = none_or_error(combined_with(self, own, others));
    Py_XDECREF(others);
    return result;
}

/* Check the argument of `set_others`. Types are exact, so that no later use of it runs Python. */
static int
others_check(const Series *self, PyObject *others)
{
    PyTypeObject *type = aggregate_type(CORE(self)->state, self->slot->kind);
    if (Py_TYPE(others) != &PyTuple_Type || PyTuple_Size(others) != OTHERS_FIELDS) {
        PyErr_Format(PyExc_TypeError, "%R is not a tuple of aggregate, counts, total, created_ns and last_ns", others);
        return -1;
    }
    PyObject *field = PyTuple_GetItem(others, OTHERS_AGGREGATE);
    if (Py_TYPE(field) != type) {
        PyErr_Format(PyExc_TypeError, "the aggregate %R is not a %R", field, type);
        return -1;
    }
    field = PyTuple_GetItem(others, OTHERS_COUNTS);
    if (field != Py_None && Py_TYPE(field) != &PyTuple_Type) {
        PyErr_Format(PyExc_TypeError, "counts=%R is neither a tuple of integers nor None", field);
        return -1;
    }
    for (Py_ssize_t i = 0; field != Py_None && i < PyTuple_Size(field); i++)
        if (!PyLong_CheckExact(PyTuple_GetItem(field, i))) {
            PyErr_Format(PyExc_TypeError, "counts=%R is neither a tuple of integers nor None", field);
            return -1;
        }
    field = PyTuple_GetItem(others, OTHERS_TOTAL);
    if (!PyLong_CheckExact(field) && !PyFloat_CheckExact(field)) {
        PyErr_Format(PyExc_TypeError, "total=%R is neither an int nor a float", field);
        return -1;
    }
    for (int i = OTHERS_CREATED; i <= OTHERS_LAST; i++) {
        field = PyTuple_GetItem(others, i);
        if (!PyLong_CheckExact(field)) {
            PyErr_Format(PyExc_TypeError, "the time %R is not an integer of nanoseconds", field);
            return -1;
        }
        if (PyLong_AsLongLong(field) == -1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

static PyObject *
series_set_others(Series *self, PyObject *others)
{
    if (others != Py_None && others_check(self, others) != 0)
        return NULL;
    TagSet *tag_set = self->tag_set;
    if ((self->flags & (IS_LIVE | IS_NULL)) != IS_LIVE)
        Py_RETURN_NONE;
    if (tag_set->others == NULL && others != Py_None) {
        size_t bytes = tag_set->entry_capacity * sizeof *tag_set->others;
        tag_set->others = MALLOC(bytes);
        if (tag_set->others == NULL)
            return PyErr_NoMemory();
        memset(tag_set->others, 0, bytes);
    }
    others_clear(self);
    if (others != Py_None)
        tag_set->others[self->entry] = Py_NewRef(others);
    self->generation++; /* invalidates `read_versions` */
    Py_RETURN_NONE;
}

static PyObject *
series_drop_recent(Series *self, PyObject *unused)
{
    Slot *recent = self->recent;
    if (recent != NULL) {
        self->recent = NULL;
        self->flags |= RECENT_MISSED;
        if (recent->directory)
            directory_set_recent(CORE(self), recent->directory, 0);
        recent->directory = 0;
        Py_DECREF((PyObject *)recent);
    }
    Py_RETURN_NONE;
}

/* Return the counts of a distribution's own values by the slot's bounds, with the sum of what is counted; the counts are
 * malloc'ed. NULL without memory. */
static uint64_t *
own_counts(const Series *self, Sum *total)
{
    const DistributionState *d = self->state;
    const Slot *slot = self->slot;
    size_t number = slot->limit_count;
    uint64_t *counts = MALLOC((number + 1) * 8);
    if (counts == NULL)
        return NULL;
    memset(counts, 0, (number + 1) * 8);
    *total = (Sum){0, 0.0, 0.0, 0};
    if (d == NULL || d->count == 0)
        return counts;
    *total = (Sum){d->integer, d->real, d->error, d->flags & (HAS_REAL | OVERFLOWED)};
    if (d->bounds) {
        const BoundsSum *counted = AT(&slot->core->page, d->bounds);
        memcpy(counts, counted + 1, (number + 1) * 8);
        if (counted->began_later)
            *total = (Sum){counted->integer, counted->real, counted->error, (unsigned)counted->flags};
    }
    else
        bounds_seed(&slot->core->page, d, slot->limits, number, counts);
    return counts;
}

static PyObject *
counts_object(const uint64_t *counts, Py_ssize_t number)
{
    PyObject *tuple = counts ? PyTuple_New(number) : Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; counts != NULL && tuple != NULL && i < number; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(counts[i]);
        if (count == NULL || PyTuple_SetItem(tuple, i, count) != 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *
series_own_reading(Series *self, PyObject *unused)
{
    Py_ssize_t number = self->slot->kind == DISTRIBUTION ? (Py_ssize_t)self->slot->limit_count : 0;
    long long created = state_created_ns(self->slot->kind, self->state);
    long long last = state_last_ns(self->slot->kind, self->state);
    Sum total = {0, 0.0, 0.0, 0};
    uint64_t *counts = NULL;
    PyObject *own = series_own(self), *tuple, *sum, *result;
    if (own == NULL)
        return none_or_error(NULL);
    if (number && (counts = own_counts(self, &total)) == NULL) {
        Py_DECREF(own);
        return PyErr_NoMemory();
    }
    tuple = counts_object(counts, number + 1);
    sum = sum_value(&total);
    result = tuple && sum ? Py_BuildValue("(OOOLL)", own, tuple, sum, created, last) : NULL;
    free(counts);
    Py_DECREF(own);
    Py_XDECREF(tuple);
    Py_XDECREF(sum);
    return result;
}

static PyObject *
series_counted(Series *self, PyObject *unused)
{
    Py_ssize_t number = (Py_ssize_t)self->slot->limit_count;
    PyObject *others = others_of(self), *aggregate = NULL, *tuple = NULL, *sum = NULL, *result = NULL, *more = NULL;
    uint64_t *counts = NULL;
    Sum total;
    /* All numbers are copied before the first object that the garbage collector watches is made. */
    Py_XINCREF(others);
    PyObject *own = series_own(self);
    if (own == NULL && (PyErr_Occurred() || others == NULL))
        goto done;
    if (number && (counts = own_counts(self, &total)) == NULL) {
        Py_XDECREF(own);
        PyErr_NoMemory();
        goto done;
    }
    aggregate = combined_with(self, own, others);
    if (aggregate == NULL)
        goto done;
    if (number && others != NULL) {
        more = PyTuple_GetItem(others, OTHERS_COUNTS);
        if (more == Py_None || PyTuple_Size(more) != number + 1)
            more = NULL;
    }
    tuple = number ? PyTuple_New(number + 1) : Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; number && tuple != NULL && i <= number; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(counts[i]);
        if (count != NULL && more != NULL) {
            PyObject *both = PyNumber_Add(count, PyTuple_GetItem(more, i));
            Py_DECREF(count);
            count = both;
        }
        if (count == NULL || PyTuple_SetItem(tuple, i, count) != 0)
            Py_CLEAR(tuple);
    }
    sum = number ? sum_value(&total) : distribution_sum((Distribution *)aggregate, NULL);
    if (sum != NULL && more != NULL) {
        PyObject *both = PyNumber_Add(sum, PyTuple_GetItem(others, OTHERS_TOTAL));
        Py_DECREF(sum);
        sum = both;
    }
    if (tuple && sum)
        result = PyTuple_Pack(3, aggregate, tuple, sum);
done:
    free(counts);
    Py_XDECREF(others);
    Py_XDECREF(aggregate);
    Py_XDECREF(tuple);
    Py_XDECREF(sum);
    return none_or_error(result);
}

/* -- arguments of fast calls -- */

/* Put positional and keyword arguments into `out`, in the order of `names`. Returns -1 with an error. */
static int
fast_arguments(const char *function, PyObject *const *names, int number, int needed, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
    if (UNLIKELY(nargs > number)) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)", function, number, nargs);
        return -1;
    }
    for (int i = 0; i < number; i++)
        out[i] = i < nargs ? args[i] : NULL;
    if (kwnames != NULL) {
        Py_ssize_t keywords = PyTuple_Size(kwnames);
        for (Py_ssize_t k = 0; k < keywords; k++) {
            PyObject *name = PyTuple_GetItem(kwnames, k);
            int i = 0;
            while (i < number && name != names[i])
                i++;
            if (i == number)
                for (i = 0; i < number && PyUnicode_Compare(name, names[i]) != 0;)
                    i++;
            if (i == number || out[i] != NULL) {
                PyErr_Format(PyExc_TypeError, "%s() got %s keyword argument %R", function,
                             i == number ? "an unexpected" : "the", name);
                return -1;
            }
            out[i] = args[nargs + k];
        }
    }
    for (int i = 0; i < needed; i++)
        if (UNLIKELY(out[i] == NULL)) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument %R", function, names[i]);
            return -1;
        }
    return 0;
}

#define FAST_CALL PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames

static inline int
positional_arguments(int number, PyObject *const *args, Py_ssize_t nargs, PyObject **out)
{
    for (int i = 0; i < number; i++)
        out[i] = i < nargs ? args[i] : NULL;
    return 0;
}

/* `fast_arguments` into `given`, with a short way for arguments by position, which does not read the names. */
#define CALL_ARGUMENTS(function, number, needed, ...)                                                                  \
    (LIKELY(kwnames == NULL && nargs >= (needed) && nargs <= (number))                                                 \
         ? positional_arguments(number, args, nargs, given)                                                            \
         : fast_arguments(function, (PyObject *[]){__VA_ARGS__}, number, needed, args, nargs, kwnames, given))

/* One argument, by position or by name. */
static inline int
one_argument(const char *function, PyObject *name, int needed, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames, PyObject **out)
{
    *out = nargs ? args[0] : NULL;
    if (LIKELY(kwnames == NULL && nargs == 1))
        return 0;
    return fast_arguments(function, &name, 1, needed, args, nargs, kwnames, out);
}

static PyObject *
counter_add(Series *self, FAST_CALL)
{
    PyObject *value;
    Number number = integer_number(1);
    if (one_argument("add", CORE(self)->state->s_value, 0, args, nargs, kwnames, &value) != 0)
        return NULL;
    if (LIKELY((value == NULL || exact_number(value, &number)) && number.d >= 0 && CORE(self)->now == NULL)) {
        int64_t now = record_now(CORE(self));
        if (is_ready(self, now))
            return recorded(self, record_counter(self, number, now));
    }
    return series_record(self, value, ADD);
}

static inline PyObject *
gauge_way(Series *self, PyObject *value, int way)
{
    Number number = integer_number(1);
    if (LIKELY((value == NULL || exact_number(value, &number)) && CORE(self)->now == NULL)) {
        int64_t now = way == SET ? gauge_now(self, number) : precise_now(CORE(self)->state);
        if (is_ready(self, now))
            return recorded(self, record_gauge(self, way == STEP_DOWN ? negated(number) : number, way != SET, now));
    }
    return series_record(self, value, way);
}

static PyObject *
gauge_series_set(Series *self, FAST_CALL)
{
    PyObject *value;
    if (one_argument("set", CORE(self)->state->s_value, 1, args, nargs, kwnames, &value) != 0)
        return NULL;
    return gauge_way(self, value, SET);
}

static PyObject *
gauge_series_increment(Series *self, FAST_CALL)
{
    PyObject *step;
    if (one_argument("increment", CORE(self)->state->s_step, 0, args, nargs, kwnames, &step) != 0)
        return NULL;
    return gauge_way(self, step, STEP_UP);
}

static PyObject *
gauge_series_decrement(Series *self, FAST_CALL)
{
    PyObject *step;
    if (one_argument("decrement", CORE(self)->state->s_step, 0, args, nargs, kwnames, &step) != 0)
        return NULL;
    return gauge_way(self, step, STEP_DOWN);
}

static PyObject *
histogram_observe(Series *self, FAST_CALL)
{
    PyObject *value;
    Number number;
    if (one_argument("observe", CORE(self)->state->s_value, 1, args, nargs, kwnames, &value) != 0)
        return NULL;
    if (LIKELY(exact_number(value, &number) && CORE(self)->now == NULL)) {
        int64_t now = record_now(CORE(self));
        if (is_ready(self, now))
            return recorded(self, record_value(self, number, 0, now));
    }
    return series_record(self, value, OBSERVE);
}

static inline PyObject *
observe_duration(Series *self, PyObject *duration, PyObject *unit, const State *state)
{
    Number number;
    if (LIKELY(exact_number(duration, &number) && number.d >= 0 && (unit == NULL || unit == state->milliseconds) &&
               CORE(self)->now == NULL)) {
        int64_t now = record_now(CORE(self));
        if (is_ready(self, now))
            return recorded(self, record_value(self, real_number(number.d), 0, now));
    }
    return series_observe_duration(self, duration, unit);
}

static PyObject *
timer_observe(Series *self, FAST_CALL)
{
    State *state = CORE(self)->state;
    PyObject *names[2] = {state->s_duration, state->s_unit}, *given[2];
    if (fast_arguments("observe", names, 2, 1, args, nargs, kwnames, given) != 0)
        return NULL;
    return observe_duration(self, given[0], given[1], state);
}

static PyObject *
timer_elapse(Series *self, FAST_CALL)
{
    State *state = CORE(self)->state;
    PyObject *names[2] = {state->s_milliseconds, state->s_success}, *given[2];
    if (fast_arguments("elapse", names, 2, 1, args, nargs, kwnames, given) != 0)
        return NULL;
    double milliseconds = PyFloat_AsDouble(given[0]);
    if (milliseconds == -1.0 && PyErr_Occurred())
        return NULL;
    int success = given[1] == NULL ? 1 : PyObject_IsTrue(given[1]);
    return success < 0 ? NULL : series_elapse(self, milliseconds, !success);
}

static PyObject *
outcome_finish(Series *self, FAST_CALL)
{
    PyObject *error_type;
    if (one_argument("finish", CORE(self)->state->s_error_type, 1, args, nargs, kwnames, &error_type) != 0)
        return NULL;
    if (LIKELY(CORE(self)->now == NULL)) {
        int32_t place = error_type == Py_None ? -1 : (int32_t)error_types_place(self->slot->types, error_type);
        int64_t now = record_now(CORE(self));
        if (LIKELY((place >= 0 || error_type == Py_None) && is_ready(self, now)))
            return recorded(self, record_outcome(self, place, now));
    }
    return series_finish(self, error_type);
}

/* -- Stopwatch -- */

typedef struct {
    PyObject_HEAD
    Series *series;
    int64_t start_ns;
    int is_running;
} Stopwatch;

static PyObject *
timer_time(Series *self, PyObject *unused)
{
    Stopwatch *watch = (Stopwatch *)PyType_GenericAlloc(CORE(self)->state->stopwatch, 0);
    if (watch != NULL)
        watch->series = (Series *)Py_NewRef((PyObject *)self);
    return (PyObject *)watch;
}

static void
stopwatch_dealloc(PyObject *object)
{
    Py_XDECREF((PyObject *)((Stopwatch *)object)->series);
    plain_dealloc(object);
}

static PyObject *
stopwatch_enter(Stopwatch *self, PyObject *unused)
{
    int64_t now;
    if (core_now(CORE(self->series), &now) != 0)
        return NULL;
    if (self->is_running) { /* checked after the clock, which may run Python */
        PyErr_SetString(PyExc_RuntimeError, "this stopwatch is running already; call time() for each block");
        return NULL;
    }
    self->is_running = 1;
    self->start_ns = now;
    Py_RETURN_NONE;
}

static PyObject *
stopwatch_call(PyObject *self, PyObject *args, PyObject *kwargs)
{
    PyErr_SetString(PyExc_TypeError, "time() times a block and decorates no function: use `with timer.time():` inside"
                                     " the function, or decorate it with metrics.measure(name)");
    return NULL;
}

static PyObject *
stopwatch_exit(Stopwatch *self, PyObject *const *args, Py_ssize_t nargs)
{
    Series *series = self->series;
    int64_t now;
    int failed = nargs > 0 && args[0] != Py_None;
    if (core_now(CORE(series), &now) != 0)
        return NULL;
    if (!self->is_running) {
        PyErr_SetString(PyExc_RuntimeError, "this stopwatch is not running; use it in a with block");
        return NULL;
    }
    self->is_running = 0;
    double milliseconds = (double)(now - self->start_ns) / 1e6;
    if (is_ready(series, now))
        return recorded(series, record_value(series, real_number(milliseconds), failed, now));
    return series_elapse(series, milliseconds, failed);
}

static PyMethodDef stopwatch_methods[] = {
    {"__enter__", (PyCFunction)stopwatch_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))stopwatch_exit, METH_FASTCALL, NULL},
    {NULL},
};

static PyType_Slot stopwatch_slots[] = {
    {Py_tp_doc, "Times one ``with`` block; an exception counts as a failure."},
    {Py_tp_dealloc, stopwatch_dealloc},
    {Py_tp_call, stopwatch_call},
    {Py_tp_methods, stopwatch_methods},
    {0, NULL},
};

static PyType_Spec stopwatch_spec = {
    "metrics_framework.recording._core.Stopwatch", sizeof(Stopwatch), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, stopwatch_slots};

static PyMethodDef series_methods[] = {
    {"state", (PyCFunction)series_state, METH_NOARGS,
     "state($self, /)\n--\n\nReturn the aggregate of all processes since the series became live; None without records."},
    {"own_state", (PyCFunction)series_own_state, METH_NOARGS,
     "own_state($self, /)\n--\n\nReturn the aggregate of this process since the series became live; None without records."},
    {"own_reading", (PyCFunction)series_own_reading, METH_NOARGS,
     "own_reading($self, /)\n--\n\nReturn what this process recorded as `set_others` takes it; None without records."},
    {"set_others", (PyCFunction)series_set_others, METH_O,
     "set_others($self, others, /)\n--\n\nReplace what other processes recorded into the series. All reads include it.\n\n"
     "Args:\n    others: None, or a tuple of their merged aggregate, its counts by the bounds of the slot or None, the sum\n"
     "        of the counted values (0 for other kinds than distributions), the first of the times at which the series\n"
     "        became live and the last of the times of records, in nanoseconds.\n\n"
     "Raises:\n    TypeError: If a field is of another type."},
    {"drop_recent", (PyCFunction)series_drop_recent, METH_NOARGS,
     "drop_recent($self, /)\n--\n\nGive its recent slot up."},
    {"null", (PyCFunction)(void (*)(void))series_null, WITH_CLASS | METH_CLASS,
     "null($type, core, owner, /)\n--\n\nReturn a series that checks its input and keeps nothing."},
    {NULL},
};

static PyGetSetDef series_getset[] = {
    {"tag_set", (getter)series_get, NULL, "The tag set that it belongs to; None for a null series.", "g"},
    {"slot", (getter)series_get, NULL, "The slot that it counts into; None for a null series.", "s"},
    {"owner", (getter)series_get, NULL, "The metric that it belongs to.", "o"},
    {"values", (getter)series_get, NULL, "The values of its tags, in the order of their names.", "v"},
    {"tags", (getter)series_tags, NULL, "Its tags, sorted by name.", NULL},
    {"is_live", (getter)series_get, NULL, "Whether it was added to its tag set and not removed.", "l"},
    {"is_null", (getter)series_get, NULL, "Whether it keeps nothing.", "n"},
    {"created_ns", (getter)series_get, NULL, "The time of the first record of any process since it became live; 0 without records.",
     "c"},
    {"last_ns", (getter)series_get, NULL, "The time of the last record of any process, within a second; 0 without records.", "a"},
    {"recent", (getter)series_get, NULL, "Its own recent slot, or None.", "r"},
    {"recent_from_ns", (getter)series_get, NULL, "The time from which on its recent slot is complete.", "f"},
    {"recent_missed", (getter)series_get, NULL, "Whether it recorded for longer than 16 s without a recent slot.", "m"},
    {NULL},
};

static PyType_Slot series_slots[] = {
    {Py_tp_doc, "One series of a metric: the base class of all bound instruments."},
    {Py_tp_dealloc, series_dealloc},
    {Py_tp_traverse, series_traverse},
    {Py_tp_methods, series_methods},
    {Py_tp_getset, series_getset},
    {0, NULL},
};

#define SERIES_SIZE offsetof(Series, values), sizeof(PyObject *)

static PyType_Spec series_spec = {"metrics_framework.recording._core.Series", SERIES_SIZE,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
                                      Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                  series_slots};

/* Without the defining class, which CPython's specialized calls do not pass. */
#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef counter_series_methods[] = {
    {"add", FAST(counter_add),
     "add($self, value=1)\n--\n\nAdd to the counter.\n\nArgs:\n    value: The amount: finite and not negative.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    {NULL},
};

static PyMethodDef gauge_series_methods[] = {
    {"set", FAST(gauge_series_set),
     "set($self, value)\n--\n\nSet the gauge.\n\nArgs:\n    value: Its new value: finite.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    {"increment", FAST(gauge_series_increment),
     "increment($self, step=1)\n--\n\nMove the gauge up.\n\nArgs:\n    step: The distance: finite.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    {"decrement", FAST(gauge_series_decrement),
     "decrement($self, step=1)\n--\n\nMove the gauge down.\n\nArgs:\n    step: The distance: finite.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    {NULL},
};

static PyGetSetDef gauge_series_getset[] = {
    {"is_stepped", (getter)series_get, NULL, "Whether any process incremented or decremented it.", "p"},
    {NULL},
};

#define COUNTED_METHOD                                                                                                 \
    {"counted", (PyCFunction)series_counted, METH_NOARGS,                                                              \
     "counted($self, /)\n--\n\nReturn its distribution, its counts by bounds, and the sum of what they count.\n\n"     \
     "All three are of the same records. The counts are None if there are no bounds; without records the answer is\n"   \
     "None."}

static PyMethodDef histogram_series_methods[] = {
    {"observe", FAST(histogram_observe),
     "observe($self, value)\n--\n\nAdd a value to the distribution.\n\nArgs:\n    value: The value: finite.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    COUNTED_METHOD,
    {NULL},
};

static PyMethodDef timer_series_methods[] = {
    {"observe", FAST(timer_observe),
     "observe($self, duration, unit=MetricUnit.MILLISECONDS)\n--\n\nAdd a duration.\n\n"
     "Args:\n    duration: The duration: finite and not negative.\n    unit: Seconds, milliseconds or microseconds.\n\n"
     "Raises:\n    InvalidInputError: If it is anything else."},
    {"elapse", FAST(timer_elapse),
     "elapse($self, milliseconds, success=True)\n--\n\nAdd a duration in milliseconds that was measured."},
    {"time", (PyCFunction)timer_time, METH_NOARGS, "time($self, /)\n--\n\nTime a ``with`` block, also one that raises."},
    COUNTED_METHOD,
    {NULL},
};

static PyMethodDef outcome_series_methods[] = {
    {"finish", FAST(outcome_finish),
     "finish($self, error_type)\n--\n\nCount an ending: with an error of a type, or None for a success."},
    {NULL},
};

#define SERIES_FLAGS                                                                                                   \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE)

static PyGetSetDef counter_series_getset[] = {{NULL}}, histogram_series_getset[] = {{NULL}},
                   timer_series_getset[] = {{NULL}}, outcome_series_getset[] = {{NULL}};

#define SERIES_TYPE(variable, text, name)                                                                              \
    static PyType_Slot variable##_slots[] = {                                                                          \
        {Py_tp_doc, name "(tag_set, values, slot)\n--\n\n" text},                                                      \
        {Py_tp_new, series_tp_new},                                                                                    \
        {Py_tp_dealloc, series_dealloc},                                                                               \
        {Py_tp_traverse, series_traverse},                                                                             \
        {Py_tp_methods, variable##_methods},                                                                           \
        {Py_tp_getset, variable##_getset},                                                                             \
        {0, NULL},                                                                                                     \
    };                                                                                                                 \
    static PyType_Spec variable##_spec = {"metrics_framework.recording._core." name, SERIES_SIZE, SERIES_FLAGS,        \
                                          variable##_slots}

SERIES_TYPE(counter_series, "A counter of one set of tags.", "CounterSeries");
SERIES_TYPE(gauge_series, "A gauge of one set of tags.", "GaugeSeries");
SERIES_TYPE(histogram_series, "A histogram of one set of tags.", "HistogramSeries");
SERIES_TYPE(timer_series, "A timer of one set of tags, in milliseconds.", "TimerSeries");
SERIES_TYPE(outcome_series, "The outcomes of an operation for one set of tags.", "OutcomeSeries");

/* ---- interface: index, recorder, timers, operations, log -------------------------------------------------- */

#define MAX_NAMES 10000
#define FOUND_NAMES 32 /* that are found without the dict: a power of two */
#define MAX_ALIASES 10000
#define MAX_ORDERS 16 /* orders of tags that a name remembers */
#define MAX_GROUPS 64 /* sets of tag names that it remembers */

/* The tags of one set of names: a tag set, and aliases of series with other tags. */
typedef struct {
    PyObject **names; /* exact strings, sorted */
    Py_ssize_t number;
    TagSet *tag_set;   /* or NULL */
    PyObject *aliases; /* a dict of values to series, or NULL */
    Series *null;      /* for any values, or NULL */
} Group;

/* One order in which those tags were given. */
typedef struct {
    PyObject *keys[MAX_TAGS]; /* borrowed from the group */
    uint8_t places[MAX_TAGS]; /* of each among the sorted names */
    Py_ssize_t number;
    int group;
} Order;

typedef struct {
    PyObject_HEAD
    PyObject *name; /* the key of the index */
    Series *untagged;
    Group *groups;
    Order **orders;
    int group_count, order_count, next_order;
} NameEntry;

typedef struct {
    PyObject_HEAD
    PyObject *entries; /* name to NameEntry */
    /* Entries by the address of their name, borrowed: most calls give the same string each time. */
    NameEntry *by_address[FOUND_NAMES];
} SeriesIndex;

static int
name_entry_traverse(PyObject *object, visitproc visit, void *arg)
{
    NameEntry *self = (NameEntry *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->untagged);
    for (int i = 0; i < self->group_count; i++) {
        Py_VISIT((PyObject *)self->groups[i].tag_set);
        Py_VISIT(self->groups[i].aliases);
        Py_VISIT((PyObject *)self->groups[i].null);
    }
    return 0;
}

static int
name_entry_clear(PyObject *object)
{
    NameEntry *self = (NameEntry *)object;
    NameEntry old = *self;
    self->name = NULL;
    self->untagged = NULL;
    self->groups = NULL;
    self->orders = NULL;
    self->group_count = self->order_count = 0;
    for (int i = 0; i < old.group_count; i++) {
        Group *group = &old.groups[i];
        for (Py_ssize_t n = 0; n < group->number; n++)
            Py_DECREF(group->names[n]);
        free(group->names);
        Py_XDECREF((PyObject *)group->tag_set);
        Py_XDECREF(group->aliases);
        Py_XDECREF((PyObject *)group->null);
    }
    for (int i = 0; i < old.order_count; i++)
        free(old.orders[i]);
    free(old.groups);
    free(old.orders);
    Py_XDECREF(old.name);
    Py_XDECREF((PyObject *)old.untagged);
    return 0;
}

static void
name_entry_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    name_entry_clear(object);
    free_object(object);
}

static PyType_Slot name_entry_slots[] = {
    {Py_tp_doc, "The ways to the series of one name."},
    {Py_tp_dealloc, name_entry_dealloc},
    {Py_tp_traverse, name_entry_traverse},
    {Py_tp_clear, name_entry_clear},
    {0, NULL},
};

static PyType_Spec name_entry_spec = {"metrics_framework.recording._core.NameEntry", sizeof(NameEntry), 0,
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                                          Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                      name_entry_slots};

/* Find the group of some keys, in whatever order they are, and their places in it; -1 if there is none. */
static int
group_of_keys(const NameEntry *entry, PyObject *const *keys, Py_ssize_t number, uint8_t *places)
{
    for (int g = 0; g < entry->group_count; g++) {
        const Group *group = &entry->groups[g];
        Py_ssize_t found = 0;
        if (group->number != number)
            continue;
        while (found < number) {
            Py_ssize_t place = 0;
            while (place < number && !same_text(group->names[place], keys[found]))
                place++;
            if (place == number)
                break;
            places[found++] = (uint8_t)place;
        }
        if (found == number)
            return g;
    }
    return -1;
}

/* Remember an order in which tags are given. Allocates no object, so that it can be part of a lookup. */
static NOINLINE const Order *
order_learn(NameEntry *entry, PyObject *const *keys, Py_ssize_t number)
{
    uint8_t places[MAX_TAGS];
    for (Py_ssize_t i = 0; i < number; i++)
        if (Py_TYPE(keys[i]) != &PyUnicode_Type)
            return NULL;
    int group = group_of_keys(entry, keys, number, places);
    if (group < 0)
        return NULL;
    Order *order;
    if (entry->order_count < MAX_ORDERS) {
        Order **orders = REALLOC(entry->orders, ((size_t)entry->order_count + 1) * sizeof *orders);
        if (orders == NULL)
            return NULL;
        entry->orders = orders;
        order = MALLOC(sizeof *order);
        if (order == NULL)
            return NULL;
        orders[entry->order_count++] = order;
    }
    else { /* in turn */
        order = entry->orders[entry->next_order];
        entry->next_order = (entry->next_order + 1) % MAX_ORDERS;
    }
    order->number = number;
    order->group = group;
    for (Py_ssize_t i = 0; i < number; i++) {
        order->places[i] = places[i];
        order->keys[i] = entry->groups[group].names[places[i]];
    }
    return order;
}

/* The tuple may start the garbage collector, whose callbacks may change the tags and forget the name: the values are held
 * meanwhile, and an entry that was forgotten finds nothing. The lookup comes after it, and compares exact strings only. */
static NOINLINE Series *
alias_find(const SeriesIndex *self, PyObject *name, NameEntry *entry, int group, PyObject *const *ordered,
           Py_ssize_t number)
{
    PyObject *found = NULL;
    Py_INCREF((PyObject *)entry);
    for (Py_ssize_t i = 0; i < number; i++)
        Py_INCREF(ordered[i]);
    PyObject *key = PyTuple_New(number);
    for (Py_ssize_t i = 0; i < number; i++) {
        if (key != NULL)
            PyTuple_SetItem(key, i, ordered[i]);
        else
            Py_DECREF(ordered[i]);
    }
    if (key == NULL)
        PyErr_Clear();
    else if (self->entries != NULL && PyDict_GetItemWithError(self->entries, name) == (PyObject *)entry &&
             group < entry->group_count && entry->groups[group].aliases != NULL)
        found = PyDict_GetItemWithError(entry->groups[group].aliases, key);
    Py_XDECREF(key);
    Py_DECREF((PyObject *)entry); /* the index holds it, if anything was found */
    return (Series *)found;
}

static NOINLINE Series *
untagged_find(const NameEntry *entry)
{
    Series *series = entry->untagged;
    if (series == NULL || series->flags & IS_LIVE)
        return series;
    return series->tag_set->name_count ? NULL : tag_set_find(series->tag_set, NULL, hash_values(NULL, 0));
}

static inline size_t
address_place(const PyObject *name)
{
    return ((uintptr_t)name >> 4 ^ (uintptr_t)name >> 9) & (FOUND_NAMES - 1);
}

/* Find the entry of a name in the dict, and remember it if the name is the very key. */
static NOINLINE NameEntry *
entry_find(SeriesIndex *self, PyObject *name)
{
    if (UNLIKELY(Py_TYPE(name) != &PyUnicode_Type || self->entries == NULL))
        return NULL;
    NameEntry *entry = (NameEntry *)PyDict_GetItemWithError(self->entries, name);
    if (entry != NULL && entry->name == name)
        self->by_address[address_place(name)] = entry;
    return entry;
}

/* Find the series of a name and tags; NULL without an error if it is unknown. Returns a borrowed reference that is
 * valid until Python code runs. */
static inline Series *
index_find(SeriesIndex *self, PyObject *name, PyObject *tags)
{
    PyObject *keys[MAX_TAGS], *values[MAX_TAGS], *ordered[MAX_TAGS], *key, *value;
    Py_ssize_t position = 0, number = 0;
    NameEntry *entry = self->by_address[address_place(name)];
    if (UNLIKELY(entry == NULL || entry->name != name) && (entry = entry_find(self, name)) == NULL)
        return NULL;
    if (tags == NULL || tags == Py_None)
        return LIKELY(entry->untagged != NULL && entry->untagged->flags & IS_LIVE) ? entry->untagged
                                                                                  : untagged_find(entry);
    if (UNLIKELY(Py_TYPE(tags) != &PyDict_Type))
        return NULL; /* another mapping may create missing values */
    while (PyDict_Next(tags, &position, &key, &value)) {
        if (UNLIKELY(number == MAX_TAGS || Py_TYPE(value) != &PyUnicode_Type))
            return NULL;
        keys[number] = key;
        values[number++] = value;
    }
    if (number == 0)
        return untagged_find(entry);
    const Order *order = NULL;
    for (int o = 0; o < entry->order_count; o++) {
        const Order *one = entry->orders[o];
        Py_ssize_t i = 0;
        if (one->number != number)
            continue;
        while (i < number && one->keys[i] == keys[i])
            i++;
        if (i == number) {
            order = one;
            break;
        }
    }
    for (int o = 0; order == NULL && o < entry->order_count; o++) {
        const Order *one = entry->orders[o];
        Py_ssize_t i = 0;
        while (one->number == number && i < number && Py_TYPE(keys[i]) == &PyUnicode_Type &&
               same_text(one->keys[i], keys[i]))
            i++;
        if (i == number)
            order = one;
    }
    if (UNLIKELY(order == NULL) && (order = order_learn(entry, keys, number)) == NULL) {
        for (Py_ssize_t i = 0; i < number; i++)
            if (Py_TYPE(keys[i]) != &PyUnicode_Type)
                return NULL; /* bad input is reported for a denied name, too */
        for (int g = 0; g < entry->group_count; g++)
            if (entry->groups[g].number == number && entry->groups[g].null != NULL)
                return entry->groups[g].null;
        return NULL;
    }
    int place = order->group;
    const Group *group = &entry->groups[place];
    if (UNLIKELY(group->null != NULL))
        return group->null;
    for (Py_ssize_t i = 0; i < number; i++)
        ordered[order->places[i]] = values[i];
    Series *series = NULL;
    if (LIKELY(group->tag_set != NULL)) {
        series = tag_set_latest(group->tag_set, ordered);
        if (series != NULL)
            return series;
        series = tag_set_find(group->tag_set, ordered, hash_values(ordered, number));
        if (LIKELY(series != NULL))
            group->tag_set->latest = series->entry;
    }
    if (LIKELY(series != NULL) || group->aliases == NULL)
        return series;
    return alias_find(self, name, entry, place, ordered, number);
}

static PyObject *
index_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":SeriesIndex", names))
        return NULL;
    SeriesIndex *self = (SeriesIndex *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->entries = PyDict_New();
    if (self->entries == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
index_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((SeriesIndex *)object)->entries);
    return 0;
}

static int
index_clear(PyObject *object)
{
    SeriesIndex *self = (SeriesIndex *)object;
    memset(self->by_address, 0, sizeof self->by_address);
    Py_CLEAR(self->entries);
    return 0;
}

static void
index_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    index_clear(object);
    free_object(object);
}

static PyObject *
index_get(SeriesIndex *self, PyObject *args)
{
    PyObject *name, *tags = Py_None;
    if (!PyArg_ParseTuple(args, "O|O:get", &name, &tags))
        return NULL;
    Series *series = index_find(self, name, tags);
    return Py_NewRef(series != NULL && series->flags & IS_LIVE ? (PyObject *)series : Py_None);
}

/* Return the entry of a name, created if missing, as a new reference; NULL without an error if there are too many. */
static NameEntry *
index_entry(SeriesIndex *self, PyObject *name, const State *state)
{
    PyObject *found = PyDict_GetItemWithError(self->entries, name);
    if (found != NULL)
        return (NameEntry *)Py_NewRef(found);
    if (PyDict_Size(self->entries) >= MAX_NAMES)
        return NULL;
    PyObject *made = PyType_GenericAlloc(state->name_entry, 0);
    if (made == NULL)
        return NULL;
    found = self->entries ? PyDict_GetItemWithError(self->entries, name) : NULL; /* the allocation may run Python */
    if (found != NULL) {
        Py_DECREF(made);
        return (NameEntry *)Py_NewRef(found);
    }
    ((NameEntry *)made)->name = Py_NewRef(name);
    if (self->entries == NULL || PyDict_SetItem(self->entries, name, made) != 0) {
        Py_DECREF(made);
        return NULL;
    }
    return (NameEntry *)made;
}

/* Return the place of the group of some sorted names, created if missing; -1 with an error, -2 if there are too many. */
static int
entry_group(NameEntry *entry, PyObject *const *names, Py_ssize_t number)
{
    uint8_t places[MAX_TAGS];
    int found = group_of_keys(entry, names, number, places);
    if (found >= 0)
        return found;
    if (entry->group_count == MAX_GROUPS)
        return -2;
    Group group = {NULL, number, NULL, NULL, NULL};
    Group *groups = REALLOC(entry->groups, ((size_t)entry->group_count + 1) * sizeof *groups);
    if (groups != NULL)
        entry->groups = groups;
    group.names = groups ? MALLOC((size_t)number * sizeof *group.names) : NULL;
    if (group.names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < number; i++)
        group.names[i] = Py_NewRef(names[i]);
    entry->groups[entry->group_count] = group;
    return entry->group_count++;
}

static int
group_add_alias(NameEntry *entry, int place, PyObject *const *values, Py_ssize_t number, PyObject *series)
{
    PyObject *aliases = entry->groups[place].aliases ? Py_NewRef(entry->groups[place].aliases) : PyDict_New();
    PyObject *key = aliases ? PyTuple_New(number) : NULL;
    int result = key == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; key != NULL && i < number; i++)
        PyTuple_SetItem(key, i, Py_NewRef(values[i]));
    /* All of them go, and those that are still used come back: a search for unused ones would take long each time. */
    if (result == 0 && PyDict_Size(aliases) >= MAX_ALIASES)
        PyDict_Clear(aliases);
    if (result == 0)
        result = PyDict_SetItem(aliases, key, series);
    if (result == 0 && place < entry->group_count && entry->groups[place].aliases == NULL)
        entry->groups[place].aliases = Py_NewRef(aliases);
    Py_XDECREF(key);
    Py_XDECREF(aliases);
    return result;
}

static PyObject *
index_learn(SeriesIndex *self, PyObject *args)
{
    PyObject *name, *tags, *object, *items, *keys = NULL, *values[MAX_TAGS], *names[MAX_TAGS], *result = NULL;
    State *state = state_of_type(Py_TYPE((PyObject *)self));
    NameEntry *entry = NULL;
    if (!PyArg_ParseTuple(args, "UOO:learn", &name, &tags, &object))
        return NULL;
    NEEDS_TYPE(object, state->series, "Series");
    if (!PyUnicode_CheckExact(name) || self->entries == NULL)
        Py_RETURN_NONE;
    Series *series = (Series *)object;
    items = PyDict_New(); /* of its own: `tags` may be any mapping */
    if (items == NULL || PyDict_Update(items, tags) != 0 || (keys = PyDict_Keys(items)) == NULL ||
        PyList_Sort(keys) != 0)
        goto done;
    Py_ssize_t number = PyList_Size(keys);
    int is_plain = number <= MAX_TAGS;
    for (Py_ssize_t i = 0; is_plain && i < number; i++) {
        names[i] = PyList_GetItem(keys, i);
        values[i] = PyDict_GetItemWithError(items, names[i]);
        is_plain = PyUnicode_CheckExact(names[i]) && values[i] != NULL && PyUnicode_CheckExact(values[i]);
    }
    if (!is_plain) { /* found the slow way each time */
        result = PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        goto done;
    }
    entry = index_entry(self, name, state);
    if (entry == NULL) {
        result = PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        goto done;
    }
    PyObject *before = NULL;
    if (number == 0) {
        before = (PyObject *)entry->untagged;
        entry->untagged = (Series *)Py_NewRef(object);
    }
    else {
        int place = entry_group(entry, names, number);
        if (place == -1)
            goto done;
        Group *group = place < 0 ? NULL : &entry->groups[place];
        int is_itself = !(series->flags & IS_NULL) && series->tag_set->name_count == number;
        for (Py_ssize_t i = 0; is_itself && i < number; i++)
            is_itself = same_text(PyTuple_GetItem(series->tag_set->names, i), names[i]) &&
                        same_text(series->values[i], values[i]);
        if (group == NULL)
            ;
        else if (series->flags & IS_NULL) {
            before = (PyObject *)group->null;
            group->null = (Series *)Py_NewRef(object);
        }
        else if (is_itself) {
            before = (PyObject *)group->tag_set;
            group->tag_set = (TagSet *)Py_NewRef((PyObject *)series->tag_set);
        }
        else if (group_add_alias(entry, place, values, number, object) != 0)
            goto done;
    }
    Py_XDECREF(before);
    result = Py_NewRef(Py_None);
done:
    Py_XDECREF((PyObject *)entry);
    Py_XDECREF(keys);
    Py_XDECREF(items);
    return result;
}

static PyObject *
index_forget(SeriesIndex *self, PyObject *name)
{
    PyObject *entry = self->entries && PyUnicode_Check(name) ? PyDict_GetItemWithError(self->entries, name) : NULL;
    if (entry != NULL) {
        Py_INCREF(entry); /* so that the dict is consistent when it is released */
        memset(self->by_address, 0, sizeof self->by_address);
        if (PyDict_DelItem(self->entries, name) != 0)
            PyErr_Clear();
        Py_DECREF(entry);
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef index_methods[] = {
    {"get", (PyCFunction)index_get, METH_VARARGS,
     "get($self, name, tags=None, /)\n--\n\nReturn the live series of a name and tags, or None if it is not known."},
    {"learn", (PyCFunction)index_learn, METH_VARARGS,
     "learn($self, name, tags, series, /)\n--\n\nRemember the series of a name and tags.\n\n"
     "If these are the tags of the series, its whole tag set is found from now on. Otherwise they are an alias. A null\n"
     "series is found for any values of as many tags."},
    {"forget", (PyCFunction)index_forget, METH_O, "forget($self, name, /)\n--\n\nForget a name."},
    {NULL},
};

static PyType_Slot index_slots[] = {
    {Py_tp_doc, "SeriesIndex()\n--\n\nFinds series by name and tags, as they are given."},
    {Py_tp_new, index_tp_new},
    {Py_tp_dealloc, index_dealloc},
    {Py_tp_traverse, index_traverse},
    {Py_tp_clear, index_clear},
    {Py_tp_methods, index_methods},
    {0, NULL},
};

static PyType_Spec index_spec = {"metrics_framework.recording._core.SeriesIndex", sizeof(SeriesIndex), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, index_slots};

/* -- Recorder -- */

typedef struct {
    PyObject_HEAD
    Core *core;
    State *state;
    PyObject *finder;
    SeriesIndex *counters, *gauges, *histograms, *timers;
} Recorder;

static int
recorder_traverse(PyObject *object, visitproc visit, void *arg)
{
    Recorder *self = (Recorder *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    Py_VISIT(self->finder);
    Py_VISIT((PyObject *)self->counters);
    Py_VISIT((PyObject *)self->gauges);
    Py_VISIT((PyObject *)self->histograms);
    Py_VISIT((PyObject *)self->timers);
    return 0;
}

static int
recorder_clear(PyObject *object)
{
    Recorder *self = (Recorder *)object;
    Py_CLEAR(self->finder);
    return 0;
}

static void
recorder_dealloc(PyObject *object)
{
    Recorder *self = (Recorder *)object;
    PyObject_GC_UnTrack(object);
    recorder_clear(object);
    Py_XDECREF((PyObject *)self->core);
    Py_XDECREF((PyObject *)self->counters);
    Py_XDECREF((PyObject *)self->gauges);
    Py_XDECREF((PyObject *)self->histograms);
    Py_XDECREF((PyObject *)self->timers);
    free_object(object);
}

static SeriesIndex *
finder_index(PyObject *finder, const State *state, PyObject *kind)
{
    PyObject *index = PyObject_CallMethodObjArgs(finder, state->s_index, kind, NULL);
    if (index != NULL && Py_TYPE(index) != state->index) {
        PyErr_Format(PyExc_TypeError, "%R.index(%R) is not a SeriesIndex", finder, kind);
        Py_CLEAR(index);
    }
    return (SeriesIndex *)index;
}

static State *
state_of_base(PyObject *object)
{
    PyTypeObject *base = Py_TYPE(object);
    PyObject *module = PyType_GetModule(base);
    while (module == NULL && base != NULL) { /* a subclass in Python has none of its own */
        PyErr_Clear();
        base = (PyTypeObject *)PyType_GetSlot(base, Py_tp_base);
        module = base ? PyType_GetModule(base) : NULL;
    }
    return module ? PyModule_GetState(module) : NULL;
}

static int
recorder_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"core", "finder", NULL};
    Recorder *self = (Recorder *)object;
    PyObject *core, *finder;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Recorder", names, &core, &finder))
        return -1;
    State *state = state_of_base(object);
    if (state == NULL || Py_TYPE(core) != state->core) {
        PyErr_Format(PyExc_TypeError, "%R is not a Core", core);
        return -1;
    }
    SeriesIndex *counters = finder_index(finder, state, state->s_counter);
    SeriesIndex *gauges = counters ? finder_index(finder, state, state->s_gauge) : NULL;
    SeriesIndex *histograms = gauges ? finder_index(finder, state, state->s_histogram) : NULL;
    SeriesIndex *timers = histograms ? finder_index(finder, state, state->s_timer) : NULL;
    if (timers == NULL || self->core != NULL) {
        Py_XDECREF((PyObject *)counters);
        Py_XDECREF((PyObject *)gauges);
        Py_XDECREF((PyObject *)histograms);
        Py_XDECREF((PyObject *)timers);
        if (timers != NULL)
            PyErr_SetString(PyExc_RuntimeError, "it was initialized already");
        return -1;
    }
    self->core = (Core *)Py_NewRef(core);
    self->state = state;
    self->finder = Py_NewRef(finder);
    self->counters = counters;
    self->gauges = gauges;
    self->histograms = histograms;
    self->timers = timers;
    return 0;
}

static int
recorder_check(const Recorder *self)
{
    if (LIKELY(self->finder != NULL))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "call super().__init__(core, finder) before recording");
    return -1;
}

/* Ask the finder for an unknown series. Returns a new reference; NULL without an error if the record is refused. */
static NOINLINE Series *
recorder_find(Recorder *self, PyObject *kind, PyObject *name, PyObject *tags, PyTypeObject *type)
{
    PyObject *finder = Py_NewRef(self->finder);
    PyObject *series = PyObject_CallMethodObjArgs(finder, self->state->s_find, kind, name, tags ? tags : Py_None, NULL);
    Py_DECREF(finder);
    if (series == NULL)
        return NULL;
    if (Py_TYPE(series) != type) {
        if (series != Py_None)
            PyErr_Format(PyExc_TypeError, "the finder returned %R in place of a series", series);
        Py_DECREF(series);
        return NULL;
    }
    return (Series *)series;
}

static PyObject *
nothing_or_error(void)
{
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Return a new reference to the series of a slow record. */
static inline Series *
recorder_series(Recorder *self, SeriesIndex *index, PyObject *kind, PyTypeObject *type, PyObject *name, PyObject *tags)
{
    Series *series = index_find(index, name, tags);
    if (series != NULL && series->flags & IS_LIVE)
        return (Series *)Py_NewRef((PyObject *)series);
    return recorder_find(self, kind, name, tags, type);
}

static PyObject *
recorder_record_counter(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[3];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("record_counter", 3, 1, state->s_name, state->s_value, state->s_tags) != 0)
        return NULL;
    Number number = integer_number(1);
    if (LIKELY((given[1] == NULL || exact_number(given[1], &number)) && number.d >= 0 && self->core->now == NULL)) {
        int64_t now = record_now(self->core);
        Series *series = index_find(self->counters, given[0], given[2]);
        if (LIKELY(series != NULL) && is_ready(series, now))
            return recorded(series, record_counter(series, number, now));
    }
    Series *series =
        recorder_series(self, self->counters, state->s_counter, state->counter_series, given[0], given[2]);
    if (series == NULL)
        return nothing_or_error();
    PyObject *result = series_record(series, given[1], ADD);
    Py_DECREF((PyObject *)series);
    return result;
}

static PyObject *
recorder_record_gauge(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[3];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("record_gauge", 3, 2, state->s_name, state->s_value, state->s_tags) != 0)
        return NULL;
    Number number;
    if (LIKELY(exact_number(given[1], &number) && self->core->now == NULL)) {
        Series *series = index_find(self->gauges, given[0], given[2]);
        if (LIKELY(series != NULL)) {
            int64_t now = gauge_now(series, number);
            if (is_ready(series, now))
                return recorded(series, record_gauge(series, number, 0, now));
        }
    }
    Series *series = recorder_series(self, self->gauges, state->s_gauge, state->gauge_series, given[0], given[2]);
    if (series == NULL)
        return nothing_or_error();
    PyObject *result = series_record(series, given[1], SET);
    Py_DECREF((PyObject *)series);
    return result;
}

static PyObject *
recorder_record_histogram(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[3];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("record_histogram", 3, 2, state->s_name, state->s_value, state->s_tags) != 0)
        return NULL;
    Number number;
    if (LIKELY(exact_number(given[1], &number) && self->core->now == NULL)) {
        int64_t now = record_now(self->core);
        Series *series = index_find(self->histograms, given[0], given[2]);
        if (LIKELY(series != NULL) && is_ready(series, now))
            return recorded(series, record_value(series, number, 0, now));
    }
    Series *series =
        recorder_series(self, self->histograms, state->s_histogram, state->histogram_series, given[0], given[2]);
    if (series == NULL)
        return nothing_or_error();
    PyObject *result = series_record(series, given[1], OBSERVE);
    Py_DECREF((PyObject *)series);
    return result;
}

static PyObject *
recorder_record_timer(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[4];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("record_timer", 4, 2, state->s_name, state->s_duration, state->s_unit, state->s_tags) != 0)
        return NULL;
    Number number;
    if (LIKELY(exact_number(given[1], &number) && number.d >= 0 &&
               (given[2] == NULL || given[2] == state->milliseconds) && self->core->now == NULL)) {
        int64_t now = record_now(self->core);
        Series *series = index_find(self->timers, given[0], given[3]);
        if (LIKELY(series != NULL) && is_ready(series, now))
            return recorded(series, record_value(series, real_number(number.d), 0, now));
    }
    Series *series = recorder_series(self, self->timers, state->s_timer, state->timer_series, given[0], given[3]);
    if (series == NULL)
        return nothing_or_error();
    PyObject *result = series_observe_duration(series, given[1], given[2]);
    Py_DECREF((PyObject *)series);
    return result;
}

static PyObject *
recorder_step(Recorder *self, PyObject *name, PyObject *tags, int way)
{
    State *state = self->state;
    Series *series = NULL;
    PyObject *result;
    if (way == STEP_UP)
        series = index_find(self->counters, name, tags);
    if (series == NULL || !(series->flags & IS_LIVE))
        series = index_find(self->gauges, name, tags);
    if (series != NULL && series->flags & IS_LIVE)
        Py_INCREF((PyObject *)series);
    else {
        PyObject *finder = Py_NewRef(self->finder), *step = PyLong_FromLong(way == STEP_UP ? 1 : -1);
        PyObject *found = step ? PyObject_CallMethodObjArgs(finder, state->s_find_step, name, step,
                                                            tags ? tags : Py_None, NULL)
                               : NULL;
        Py_XDECREF(step);
        Py_DECREF(finder);
        if (found == NULL || found == Py_None)
            return found;
        if (!PyObject_TypeCheck(found, state->series)) {
            PyErr_Format(PyExc_TypeError, "the finder returned %R in place of a series", found);
            Py_DECREF(found);
            return NULL;
        }
        series = (Series *)found;
    }
    if (Py_TYPE((PyObject *)series) == state->gauge_series)
        result = gauge_way(series, NULL, way);
    else if (Py_TYPE((PyObject *)series) == state->counter_series)
        result = series_record(series, NULL, ADD);
    else {
        PyErr_Format(PyExc_TypeError, "%R is neither a counter nor a gauge", series);
        result = NULL;
    }
    Py_DECREF((PyObject *)series);
    return result;
}

static PyObject *
recorder_increment(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[2];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("increment", 2, 1, state->s_name, state->s_tags) != 0)
        return NULL;
    if (LIKELY(self->core->now == NULL)) {
        int64_t now = record_now(self->core);
        Series *series = index_find(self->counters, given[0], given[1]);
        if (LIKELY(series != NULL) && is_ready(series, now))
            return recorded(series, record_counter(series, integer_number(1), now));
    }
    return recorder_step(self, given[0], given[1], STEP_UP);
}

static PyObject *
recorder_decrement(PyObject *object, FAST_CALL)
{
    Recorder *self = (Recorder *)object;
    State *state = self->state;
    PyObject *given[2];
    if (UNLIKELY(recorder_check(self) != 0) ||
        CALL_ARGUMENTS("decrement", 2, 1, state->s_name, state->s_tags) != 0)
        return NULL;
    return recorder_step(self, given[0], given[1], STEP_DOWN);
}

static PyMethodDef recorder_methods[] = {
    {"record_counter", FAST(recorder_record_counter),
     "record_counter($self, name, value=1, tags=None)\n--\n\nAdd to a counter; see `MetricCollector.record_counter`."},
    {"record_gauge", FAST(recorder_record_gauge),
     "record_gauge($self, name, value, tags=None)\n--\n\nSet a gauge; see `MetricCollector.record_gauge`."},
    {"record_histogram", FAST(recorder_record_histogram),
     "record_histogram($self, name, value, tags=None)\n--\n\n"
     "Add to a distribution; see `MetricCollector.record_histogram`."},
    {"record_timer", FAST(recorder_record_timer),
     "record_timer($self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None)\n--\n\n"
     "Add a duration; see `MetricCollector.record_timer`."},
    {"increment", FAST(recorder_increment),
     "increment($self, name, tags=None)\n--\n\nAdd 1 to a counter or gauge; see `MetricCollector.increment`."},
    {"decrement", FAST(recorder_decrement),
     "decrement($self, name, tags=None)\n--\n\nTake 1 from a gauge; see `MetricCollector.decrement`."},
    {NULL},
};

static PyType_Slot recorder_slots[] = {
    {Py_tp_doc, "Recorder(core, finder)\n--\n\n"
                "Records by name and tags: the recording half of the in-memory `MetricCollector`.\n\n"
                "Args:\n    core: The core of the store.\n    finder: Finds or makes series that are not known yet."},
    {Py_tp_init, recorder_init},
    {Py_tp_dealloc, recorder_dealloc},
    {Py_tp_traverse, recorder_traverse},
    {Py_tp_clear, recorder_clear},
    {Py_tp_methods, recorder_methods},
    {0, NULL},
};

static PyType_Spec recorder_spec = {"metrics_framework.recording._core.Recorder", sizeof(Recorder), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, recorder_slots};

/* -- RunningTimers -- */

typedef struct {
    uint64_t id; /* 0 for an empty place */
    PyObject *series; /* a TimerSeries, or None */
    PyObject *name, *metadata;
    int64_t start_ns;
} RunningTimer;

typedef struct {
    PyObject_HEAD
    Core *core;
    State *state;
    PyObject *finder, *clock;
    SeriesIndex *timings;
    RunningTimer *running; /* a table by id, with linear probing */
    size_t size, count, limit;
    uint64_t last_id, oldest_id; /* ids are consecutive; no older one runs than `oldest_id` */
} RunningTimers;

static void
timer_release(RunningTimer *timer)
{
    Py_XDECREF(timer->series);
    Py_XDECREF(timer->name);
    Py_XDECREF(timer->metadata);
}

static int
timers_traverse(PyObject *object, visitproc visit, void *arg)
{
    RunningTimers *self = (RunningTimers *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    Py_VISIT(self->finder);
    Py_VISIT(self->clock);
    Py_VISIT((PyObject *)self->timings);
    for (size_t i = 0; i < self->size; i++) {
        Py_VISIT(self->running[i].series);
        Py_VISIT(self->running[i].metadata);
    }
    return 0;
}

static int
timers_clear(PyObject *object)
{
    RunningTimers *self = (RunningTimers *)object;
    RunningTimer *running = self->running;
    size_t size = self->size;
    self->running = NULL;
    self->size = self->count = 0;
    for (size_t i = 0; i < size; i++)
        timer_release(&running[i]);
    free(running);
    Py_CLEAR(self->finder);
    Py_CLEAR(self->clock);
    return 0;
}

static void
timers_dealloc(PyObject *object)
{
    RunningTimers *self = (RunningTimers *)object;
    PyObject_GC_UnTrack(object);
    timers_clear(object);
    Py_XDECREF((PyObject *)self->core);
    Py_XDECREF((PyObject *)self->timings);
    free_object(object);
}

/* Return the place of an id, or of the empty place for it. */
static inline size_t
timer_place(const RunningTimer *running, size_t size, uint64_t id)
{
    size_t place = (size_t)id & (size - 1);
    while (running[place].id != 0 && running[place].id != id)
        place = (place + 1) & (size - 1);
    return place;
}

static int
timers_grow(RunningTimers *self)
{
    size_t size = self->size ? 2 * self->size : 16;
    RunningTimer *running = MALLOC(size * sizeof *running);
    if (running == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(running, 0, size * sizeof *running);
    for (size_t i = 0; i < self->size; i++)
        if (self->running[i].id != 0)
            running[timer_place(running, size, self->running[i].id)] = self->running[i];
    free(self->running);
    self->running = running;
    self->size = size;
    return 0;
}

/* Take a timer out of the table; the caller releases it. Returns 0 if it does not run. */
static int
timers_take(RunningTimers *self, uint64_t id, RunningTimer *taken)
{
    if (self->size == 0 || id == 0)
        return 0;
    size_t mask = self->size - 1, place = timer_place(self->running, self->size, id);
    *taken = self->running[place];
    if (taken->id == 0)
        return 0;
    for (size_t next = (place + 1) & mask; self->running[next].id != 0; next = (next + 1) & mask) {
        size_t home = (size_t)self->running[next].id & mask;
        if (((next - home) & mask) >= ((next - place) & mask)) { /* it may move into the gap */
            self->running[place] = self->running[next];
            place = next;
        }
    }
    memset(&self->running[place], 0, sizeof self->running[place]);
    self->count--;
    return 1;
}

static int
timers_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"core", "timings", "finder", "clock", "limit", NULL};
    RunningTimers *self = (RunningTimers *)object;
    PyObject *core, *timings, *finder, *clock;
    Py_ssize_t limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOn:RunningTimers", names, &core, &timings, &finder, &clock,
                                     &limit))
        return -1;
    State *state = state_of_base(object);
    if (state == NULL || Py_TYPE(core) != state->core || Py_TYPE(timings) != state->index || limit < 1) {
        PyErr_SetString(PyExc_TypeError, "RunningTimers takes a Core, a SeriesIndex, a finder, a clock and a limit");
        return -1;
    }
    if (self->core != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it was initialized already");
        return -1;
    }
    self->core = (Core *)Py_NewRef(core);
    self->state = state;
    self->timings = (SeriesIndex *)Py_NewRef(timings);
    self->finder = Py_NewRef(finder);
    self->clock = Py_NewRef(clock);
    self->limit = (size_t)limit;
    self->oldest_id = 1;
    return 0;
}

static int
timers_check(const RunningTimers *self)
{
    if (LIKELY(self->finder != NULL))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "call super().__init__() before timing");
    return -1;
}

#define ID_DIGITS 6 /* at least */

static PyObject *
text_of_id(uint64_t id)
{
    char text[24];
    int length = 0;
    for (; id || length < ID_DIGITS; id >>= 4)
        text[sizeof text - (size_t)++length] = "0123456789abcdef"[id & 15];
    return PyUnicode_FromStringAndSize(text + sizeof text - length, length);
}

/* Return the number of an id as `text_of_id` writes it, or 0. */
static uint64_t
id_of_text(PyObject *text)
{
    Py_ssize_t length;
    uint64_t id = 0;
    const char *digits = PyUnicode_CheckExact(text) ? PyUnicode_AsUTF8AndSize(text, &length) : NULL;
    if (digits == NULL) {
        PyErr_Clear(); /* a lone surrogate is not in an id */
        return 0;
    }
    if (length < ID_DIGITS || length > 16 || (length > ID_DIGITS && digits[0] == '0'))
        return 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        char digit = digits[i];
        int is_letter = digit >= 'a' && digit <= 'f';
        if (!is_letter && (digit < '0' || digit > '9'))
            return 0;
        id = id << 4 | (uint64_t)(is_letter ? digit - 'a' + 10 : digit - '0');
    }
    return id;
}

static PyObject *
timers_start(PyObject *object, FAST_CALL)
{
    RunningTimers *self = (RunningTimers *)object;
    State *state = self->state;
    PyObject *given[2], *names[2] = {state ? state->s_operation_name : NULL, state ? state->s_metadata : NULL};
    if (timers_check(self) != 0 || fast_arguments("start_timer", names, 2, 1, args, nargs, kwnames, given) != 0)
        return NULL;
    RunningTimer timer = {0, NULL, NULL, NULL, 0}, oldest;
    if (given[1] == NULL || given[1] == Py_None)
        timer.metadata = Py_NewRef(Py_None);
    else if (Py_TYPE(given[1]) == &PyDict_Type)
        timer.metadata = PyDict_Copy(given[1]);
    else
        timer.metadata = PyObject_CallMethodObjArgs(self->finder, state->s_plain_metadata, given[1], NULL);
    if (timer.metadata == NULL)
        return NULL;
    Series *series = index_find(self->timings, given[0], NULL);
    if (LIKELY(series != NULL && series->flags & IS_LIVE))
        timer.series = Py_NewRef((PyObject *)series);
    else {
        timer.series = PyObject_CallMethodObjArgs(self->finder, state->s_find_timing, given[0], NULL);
        if (timer.series == NULL)
            goto failed;
        if (timer.series != Py_None && Py_TYPE(timer.series) != state->timer_series) {
            PyErr_Format(PyExc_TypeError, "the finder returned %R in place of a series", timer.series);
            goto failed;
        }
    }
    timer.name = Py_NewRef(given[0]);
    /* An injected clock may run Python and start timers: the number and the place of this one come after it. */
    if (core_now(self->core, &timer.start_ns) != 0 || (2 * (self->count + 1) > self->size && timers_grow(self) != 0))
        goto failed;
    timer.id = ++self->last_id;
    PyObject *id = text_of_id(timer.id);
    if (id == NULL)
        goto failed;
    self->running[timer_place(self->running, self->size, timer.id)] = timer;
    self->count++;
    if (UNLIKELY(self->count > self->limit)) {
        while (!timers_take(self, self->oldest_id, &oldest))
            self->oldest_id++;
        timer_release(&oldest);
        PyObject *finder = Py_NewRef(self->finder);
        PyObject *result = PyObject_CallMethodObjArgs(finder, state->s_count_abandoned, NULL);
        Py_DECREF(finder);
        Py_XDECREF(result);
        if (result == NULL)
            Py_CLEAR(id);
    }
    return id;
failed:
    timer_release(&timer);
    return NULL;
}

static PyObject *
timers_stop(PyObject *object, FAST_CALL)
{
    RunningTimers *self = (RunningTimers *)object;
    State *state = self->state;
    PyObject *given[2], *names[2] = {state ? state->s_timer_id : NULL, state ? state->s_success : NULL};
    int64_t now;
    if (timers_check(self) != 0 || fast_arguments("stop_timer", names, 2, 1, args, nargs, kwnames, given) != 0 ||
        core_now(self->core, &now) != 0)
        return NULL;
    int success = given[1] == NULL ? 1 : PyObject_IsTrue(given[1]);
    if (success < 0)
        return NULL;
    RunningTimer timer;
    if (!timers_take(self, id_of_text(given[0]), &timer)) {
        /* No list of other ids: there may be thousands, and none of them is the right one. */
        PyErr_Format(state->unknown_timer_error,
                     "no timer %R is running: it was stopped already, never started, or given up when %zu newer ones ran",
                     given[0], self->limit);
        return NULL;
    }
    PyObject *result = NULL;
    if (timer.series != Py_None) { /* None: the name was refused, and counted */
        Series *series = (Series *)timer.series;
        double milliseconds = (double)(now - timer.start_ns) / 1e6;
        if (is_ready(series, now))
            result = recorded(series, record_value(series, real_number(milliseconds), !success, now));
        else
            result = series_elapse(series, milliseconds, !success);
        if (result == NULL)
            goto done;
        Py_DECREF(result);
    }
    /* The fields of the result are worked out when they are asked for. */
    PyObject *start = PyLong_FromLongLong(timer.start_ns), *stop = start ? PyLong_FromLongLong(now) : NULL;
    PyObject *pending = stop ? PyTuple_Pack(6, timer.name, timer.metadata, start, stop, success ? Py_True : Py_False,
                                            self->clock)
                             : NULL;
    result = pending ? PyType_GenericAlloc((PyTypeObject *)state->timing_result, 0) : NULL;
    if (result != NULL && PyObject_SetAttr(result, state->pending, pending) != 0)
        Py_CLEAR(result);
    Py_XDECREF(start);
    Py_XDECREF(stop);
    Py_XDECREF(pending);
done:
    timer_release(&timer);
    return result;
}

static PyMethodDef timers_methods[] = {
    {"start_timer", FAST(timers_start),
     "start_timer($self, operation_name, metadata=None)\n--\n\nStart timing; see `PerformanceTimer.start_timer`."},
    {"stop_timer", FAST(timers_stop),
     "stop_timer($self, timer_id, success=True)\n--\n\n"
     "Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."},
    {NULL},
};

static PyType_Slot timers_slots[] = {
    {Py_tp_doc, "RunningTimers(core, timings, finder, clock, limit)\n--\n\nTimers by id, of which a limited number "
                "runs.\n\nArgs:\n    core: The core of the store.\n    timings: Finds the series of operations.\n"
                "    finder: Finds or makes series that are not known yet.\n    clock: Both clocks of the results.\n"
                "    limit: The number of timers that run at once; the oldest ones past it are given up."},
    {Py_tp_init, timers_init},
    {Py_tp_dealloc, timers_dealloc},
    {Py_tp_traverse, timers_traverse},
    {Py_tp_clear, timers_clear},
    {Py_tp_methods, timers_methods},
    {0, NULL},
};

static PyType_Spec timers_spec = {"metrics_framework.recording._core.RunningTimers", sizeof(RunningTimers), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, timers_slots};

/* -- OperationRecorder -- */

typedef struct {
    PyObject_HEAD
    Core *core;
    State *state;
    PyObject *finder;
    SeriesIndex *timings, *outcomes;
} OperationRecorder;

static int
operations_traverse(PyObject *object, visitproc visit, void *arg)
{
    OperationRecorder *self = (OperationRecorder *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    Py_VISIT(self->finder);
    Py_VISIT((PyObject *)self->timings);
    Py_VISIT((PyObject *)self->outcomes);
    return 0;
}

static int
operations_clear(PyObject *object)
{
    Py_CLEAR(((OperationRecorder *)object)->finder);
    return 0;
}

static void
operations_dealloc(PyObject *object)
{
    OperationRecorder *self = (OperationRecorder *)object;
    PyObject_GC_UnTrack(object);
    operations_clear(object);
    Py_XDECREF((PyObject *)self->core);
    Py_XDECREF((PyObject *)self->timings);
    Py_XDECREF((PyObject *)self->outcomes);
    free_object(object);
}

static PyObject *
operations_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"core", "timings", "outcomes", "finder", NULL};
    PyObject *core, *timings, *outcomes, *finder;
    State *state = state_of_type(type);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO:OperationRecorder", names, &core, &timings, &outcomes,
                                     &finder))
        return NULL;
    NEEDS_TYPE(core, state->core, "Core");
    NEEDS_TYPE(timings, state->index, "SeriesIndex");
    NEEDS_TYPE(outcomes, state->index, "SeriesIndex");
    OperationRecorder *self = (OperationRecorder *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->core = (Core *)Py_NewRef(core);
    self->state = state;
    self->timings = (SeriesIndex *)Py_NewRef(timings);
    self->outcomes = (SeriesIndex *)Py_NewRef(outcomes);
    self->finder = Py_NewRef(finder);
    return (PyObject *)self;
}

/* Return a new reference to the series of one half; NULL without an error if the record is refused. */
static Series *
operations_series(OperationRecorder *self, SeriesIndex *index, PyObject *method, PyTypeObject *type,
                  PyObject *operation, PyObject *tags)
{
    Series *series = index_find(index, operation, tags);
    if (series != NULL && series->flags & IS_LIVE)
        return (Series *)Py_NewRef((PyObject *)series);
    PyObject *finder = self->finder ? Py_NewRef(self->finder) : Py_NewRef(Py_None);
    PyObject *found = PyObject_CallMethodObjArgs(finder, method, operation, tags, NULL);
    Py_DECREF(finder);
    if (found != NULL && Py_TYPE(found) != type) {
        if (found != Py_None)
            PyErr_Format(PyExc_TypeError, "the finder returned %R in place of a series", found);
        Py_CLEAR(found);
    }
    return (Series *)found;
}

/* Record an operation whose series or error type is not known yet. All that may run Python comes before the first half is
 * recorded, so that an exception of a signal handler tears no operation. A half that is refused does not keep the other one
 * from being recorded. */
static NOINLINE PyObject *
operations_record_slowly(OperationRecorder *self, PyObject *const *given, double milliseconds, int failed)
{
    State *state = self->state;
    Series *timing, *outcome = NULL, *live_timing = NULL, *live_outcome = NULL;
    int64_t now = 0;
    int32_t place = -1;
    int closed = 0, more = 0, result = -1;
    timing = operations_series(self, self->timings, state->s_find_timing, state->timer_series, given[0], given[1]);
    if (timing == NULL && PyErr_Occurred())
        return NULL;
    outcome = operations_series(self, self->outcomes, state->s_find_outcomes, state->outcome_series, given[0], given[1]);
    if (outcome == NULL && PyErr_Occurred())
        goto done;
    for (int tries = 0; tries < 100; tries++) {
        Py_CLEAR(live_timing);
        Py_CLEAR(live_outcome);
        if (outcome != NULL && !(outcome->flags & IS_NULL)) {
            place = error_type_place(outcome, given[3]);
            if (place == -3)
                goto done;
            if (place != -2 && (live_outcome = series_enter(outcome, &now)) == NULL && PyErr_Occurred())
                goto done;
        }
        if (timing != NULL && !(timing->flags & IS_NULL) && (live_timing = series_enter(timing, &now)) == NULL &&
            PyErr_Occurred())
            goto done;
        if (live_outcome != NULL && place >= 0 && live_outcome->slot->types != outcome->slot->types) {
            /* The name was removed and is another operation now, with error types of its own. */
            Py_DECREF((PyObject *)outcome);
            outcome = (Series *)Py_NewRef((PyObject *)live_outcome);
            continue;
        }
        if ((live_timing == NULL || live_timing->flags & IS_LIVE) && (live_outcome == NULL || live_outcome->flags & IS_LIVE))
            break;
    }
    if (live_timing != NULL && live_timing->flags & IS_LIVE &&
        (closed = record_value(live_timing, real_number(milliseconds), failed, now)) < 0)
        goto done;
    if (live_outcome != NULL && live_outcome->flags & IS_LIVE && (more = record_outcome(live_outcome, place, now)) < 0)
        goto done;
    result = (closed && publish_closed(live_timing, closed) != 0) || (more && publish_closed(live_outcome, more) != 0);
done:
    Py_XDECREF((PyObject *)timing);
    Py_XDECREF((PyObject *)outcome);
    Py_XDECREF((PyObject *)live_timing);
    Py_XDECREF((PyObject *)live_outcome);
    return result != 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
operations_record(PyObject *object, FAST_CALL)
{
    OperationRecorder *self = (OperationRecorder *)object;
    State *state = self->state;
    PyObject *given[4],
        *names[4] = {state->s_operation, state->s_tags, state->s_elapsed_ns, state->s_error_type};
    int64_t now;
    if (fast_arguments("record", names, 4, 4, args, nargs, kwnames, given) != 0)
        return NULL;
    long long elapsed = PyLong_AsLongLong(given[2]);
    if (elapsed == -1 && PyErr_Occurred())
        return NULL;
    double milliseconds = (double)elapsed / 1e6;
    int failed = given[3] != Py_None;
    if (core_now(self->core, &now) != 0)
        return NULL;
    Series *timing = index_find(self->timings, given[0], given[1]);
    Py_XINCREF((PyObject *)timing); /* the next lookup may run the garbage collector */
    Series *outcome = timing ? index_find(self->outcomes, given[0], given[1]) : NULL;
    if (LIKELY(timing && outcome && is_ready(timing, now) && is_ready(outcome, now))) {
        int32_t place = failed ? (int32_t)error_types_place(outcome->slot->types, given[3]) : -1;
        if (LIKELY(place >= 0 || !failed)) {
            Py_INCREF((PyObject *)outcome);
            int result = 0, closed = record_value(timing, real_number(milliseconds), failed, now);
            int more = closed < 0 ? -1 : record_outcome(outcome, place, now);
            if (more < 0)
                result = -1;
            else if (UNLIKELY(closed | more))
                result = publish_closed(timing, closed) != 0 || publish_closed(outcome, more) != 0 ? -1 : 0;
            Py_DECREF((PyObject *)timing);
            Py_DECREF((PyObject *)outcome);
            return result < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    Py_XDECREF((PyObject *)timing);
    return operations_record_slowly(self, given, milliseconds, failed);
}

static PyMethodDef operations_methods[] = {
    {"record", FAST(operations_record),
     "record($self, operation, tags, elapsed_ns, error_type)\n--\n\nRecord how long an operation took and how it ended.\n\n"
     "Args:\n    operation: Its name.\n    tags: Its tags, or None.\n    elapsed_ns: The duration in nanoseconds.\n"
     "    error_type: The type of its error, or None for a success."},
    {NULL},
};

static PyType_Slot operations_slots[] = {
    {Py_tp_doc, "OperationRecorder(core, timings, outcomes, finder)\n--\n\n"
                "Records both halves of an operation: its duration and its outcome."},
    {Py_tp_new, operations_tp_new},
    {Py_tp_dealloc, operations_dealloc},
    {Py_tp_traverse, operations_traverse},
    {Py_tp_clear, operations_clear},
    {Py_tp_methods, operations_methods},
    {0, NULL},
};

static PyType_Spec operations_spec = {"metrics_framework.recording._core.OperationRecorder",
                                      sizeof(OperationRecorder), 0,
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                                      operations_slots};

/* -- RecordLog -- */

static void
log_empty(RecordLog *log)
{
    struct LogEntry *entries = log->entries;
    size_t count = log->count;
    log->entries = NULL;
    log->count = log->capacity = 0;
    log->lost = 0;
    for (size_t i = 0; i < count; i++)
        Py_DECREF((PyObject *)entries[i].series);
    free(entries);
}

static int
log_traverse(PyObject *object, visitproc visit, void *arg)
{
    RecordLog *self = (RecordLog *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->core);
    for (size_t i = 0; i < self->count; i++)
        Py_VISIT((PyObject *)self->entries[i].series);
    return 0;
}

static void
log_leave(RecordLog *self)
{
    Core *core = self->core;
    if (core == NULL)
        return;
    for (size_t i = 0; i < core->log_count; i++)
        if (core->logs[i] == self) {
            core->logs[i] = core->logs[--core->log_count];
            break;
        }
    self->core = NULL;
    Py_DECREF((PyObject *)core);
}

static int
log_clear(PyObject *object)
{
    log_empty((RecordLog *)object);
    return 0;
}

static void
log_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    log_leave((RecordLog *)object);
    log_empty((RecordLog *)object);
    free_object(object);
}

static PyObject *
core_subscribe(Core *self, PyObject *capacity)
{
    size_t limit = PyLong_AsSize_t(capacity);
    if (PyErr_Occurred())
        return NULL;
    if (limit < 1) {
        PyErr_Format(PyExc_ValueError, "capacity=%R is not 1 or more", capacity);
        return NULL;
    }
    RecordLog *log = (RecordLog *)PyType_GenericAlloc(self->state->log, 0);
    if (log == NULL)
        return NULL;
    RecordLog **logs = REALLOC(self->logs, (self->log_count + 1) * sizeof *logs);
    if (logs == NULL) {
        Py_DECREF((PyObject *)log);
        return PyErr_NoMemory();
    }
    self->logs = logs;
    log->limit = limit;
    log->start = HEADER(&self->page)->records;
    log->core = (Core *)Py_NewRef((PyObject *)self);
    logs[self->log_count++] = log;
    return (PyObject *)log;
}

static PyObject *
core_unsubscribe(Core *self, PyObject *log)
{
    NEEDS_TYPE(log, self->state->log, "RecordLog");
    if (((RecordLog *)log)->core == self)
        log_leave((RecordLog *)log);
    Py_RETURN_NONE;
}

static PyObject *
log_drain(RecordLog *self, PyObject *unused)
{
    /* Take the entries first: to make objects of them may run Python that records. */
    struct LogEntry *entries = self->entries;
    size_t count = self->count;
    uint64_t lost = self->lost;
    self->entries = NULL;
    self->count = self->capacity = 0;
    self->lost = 0;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count; i++) {
        struct LogEntry *entry = &entries[i];
        Series *series = entry->series;
        PyObject *value = NULL, *item = NULL;
        if (list != NULL) {
            if (series->slot->kind != OUTCOME)
                value = number_object(entry->value);
            else if (entry->error_type < 0)
                value = Py_NewRef(Py_None);
            else
                value = Py_NewRef(PyList_GetItem(series->slot->types->names, entry->error_type));
            item = value ? Py_BuildValue("(ONKNL)", (PyObject *)series, value, (unsigned long long)entry->count,
                                         number_object(entry->number), (long long)entry->now_ns)
                         : NULL;
            if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0)
                Py_CLEAR(list);
        }
        Py_DECREF((PyObject *)series);
    }
    free(entries);
    return list ? Py_BuildValue("(KN)", (unsigned long long)lost, list) : NULL;
}

static PyObject *
log_start(RecordLog *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(self->start);
}

static PyMethodDef log_methods[] = {
    {"drain", (PyCFunction)log_drain, METH_NOARGS,
     "drain($self, /)\n--\n\nReturn how many records were lost, and those that were not, in their order.\n\n"
     "A record is a tuple: its series, its value, the number of records of the series, its resulting number and its\n"
     "time. Records are lost while the log is full: all of them are later than those that are returned."},
    {NULL},
};

static PyGetSetDef log_getset[] = {
    {"start", (getter)log_start, NULL, "The number of records of the core before the first one in this log.", NULL},
    {NULL},
};

static PyType_Slot log_slots[] = {
    {Py_tp_doc, "The records of a core since it was subscribed, in their order; see `Core.subscribe`."},
    {Py_tp_dealloc, log_dealloc},
    {Py_tp_traverse, log_traverse},
    {Py_tp_clear, log_clear},
    {Py_tp_methods, log_methods},
    {Py_tp_getset, log_getset},
    {0, NULL},
};

static PyType_Spec log_spec = {"metrics_framework.recording._core.RecordLog", sizeof(RecordLog), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                                   Py_TPFLAGS_DISALLOW_INSTANTIATION,
                               log_slots};

/* -- InternalCounter -- */

typedef struct {
    PyObject_HEAD
    Core *core; /* NULL, or its page has the value */
    int64_t value;
    int place; /* in the counters of the header */
} InternalCounter;

static PyObject *
account_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"core", "name", NULL};
    State *state = state_of_type(type);
    PyObject *core = Py_None;
    const char *name = "";
    int place = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Os:InternalCounter", names, &core, &name))
        return NULL;
    if (core != Py_None) {
        NEEDS_TYPE(core, state->core, "Core");
        while (place < 3 && strcmp(name, COUNTER_NAMES[place]) != 0)
            place++;
        if (place == 3) {
            PyErr_Format(PyExc_ValueError, "name='%s' is not 'rejected', 'overflowed' or 'abandoned'", name);
            return NULL;
        }
    }
    InternalCounter *self = (InternalCounter *)PyType_GenericAlloc(type, 0);
    if (self != NULL && core != Py_None) {
        self->core = (Core *)Py_NewRef(core);
        self->place = place;
    }
    return (PyObject *)self;
}

static int
account_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)((InternalCounter *)object)->core);
    return 0;
}

static int
account_clear(PyObject *object)
{
    Py_CLEAR(((InternalCounter *)object)->core);
    return 0;
}

static void
account_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    account_clear(object);
    free_object(object);
}

static int64_t *
account_place(InternalCounter *self)
{
    return self->core ? (int64_t *)&HEADER(&self->core->page)->counters[self->place] : &self->value;
}

static PyObject *
account_add(InternalCounter *self, PyObject *args)
{
    long long number = 1;
    if (!PyArg_ParseTuple(args, "|L:add", &number))
        return NULL;
    *account_place(self) += number;
    Py_RETURN_NONE;
}

static PyObject *
account_reset(InternalCounter *self, PyObject *unused)
{
    *account_place(self) = 0;
    Py_RETURN_NONE;
}

static PyObject *
account_value(InternalCounter *self, void *closure)
{
    return PyLong_FromLongLong(*account_place(self));
}

static PyMethodDef account_methods[] = {
    {"add", (PyCFunction)account_add, METH_VARARGS, "add($self, number=1, /)\n--\n\nAdd a number."},
    {"reset", (PyCFunction)account_reset, METH_NOARGS, "reset($self, /)\n--\n\nBegin at zero again."},
    {NULL},
};

static PyGetSetDef account_getset[] = {
    {"value", (getter)account_value, NULL, "The sum.", NULL},
    {NULL},
};

static PyType_Slot account_slots[] = {
    {Py_tp_doc, "InternalCounter(core=None, name='')\n--\n\nA count that the store keeps of itself.\n\n"
                "Args:\n    core: Its shared page has the count, for other processes.\n"
                "    name: With a core: 'rejected', 'overflowed' or 'abandoned'."},
    {Py_tp_new, account_tp_new},
    {Py_tp_dealloc, account_dealloc},
    {Py_tp_traverse, account_traverse},
    {Py_tp_clear, account_clear},
    {Py_tp_methods, account_methods},
    {Py_tp_getset, account_getset},
    {0, NULL},
};

static PyType_Spec account_spec = {"metrics_framework.recording._core.InternalCounter", sizeof(InternalCounter), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, account_slots};

/* -- PageReader -- */

/* A part of a page that a reader copies: the copy has the bytes that it had after the last finished record. */
typedef struct {
    uint64_t offset;
    size_t size, capacity;
    uint8_t *bytes;
} Part;

#define MAX_PARTS 5
#define MAX_READ_TRIES 1000
#define MAX_OPEN_LINES 64 /* more than the lines that one record of a dead process may have left unfinished */

/* What a reader knows of an index of the directory. */
typedef struct {
    uint64_t word;
    uint64_t records; /* of the state when it was read last */
    uint32_t state, slot;
    uint8_t kind, is_damaged;
} Found;

typedef struct {
    PyObject_HEAD
    State *state;
    const uint8_t *base; /* NULL once it is closed */
    size_t size;
    PyObject *data; /* the bytes of a dead page; NULL for a live one, which is mapped from `file` */
    int file;
    Found *found; /* by index, from 1 on */
    uint32_t count, capacity;
    Part parts[MAX_PARTS];
    int part_count;
    uint64_t retries, most_retries, damaged;
#ifdef METRICS_CORE_DEBUG
    int ignores_log;
#endif
} PageReader;

#define READER_HEADER(self) ((const volatile Header *)(self)->base)

#if defined(_MSC_VER)
#define ORDER_LOADS() ORDER_STORES()
#else
#define ORDER_LOADS() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#endif

static int
reader_has(const PageReader *self, uint64_t offset, size_t size)
{
    return offset >= HEAP_START && offset <= self->size && size <= self->size - offset;
}

static void
reader_unmap(PageReader *self)
{
#ifdef HAS_SHARING
    if (self->base != NULL && self->data == NULL)
        munmap((void *)(uintptr_t)self->base, self->size);
#endif
    self->base = NULL;
}

/* Map all of a live file. Returns -1 with an error; 1 if it is larger than before. */
static int
reader_map(PageReader *self)
{
#ifdef HAS_SHARING
    struct stat status;
    if (fstat(self->file, &status) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if ((uint64_t)status.st_size <= self->size)
        return 0;
    void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, self->file, 0);
    if (base == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    reader_unmap(self);
    self->base = base;
    self->size = (size_t)status.st_size;
    return 1;
#else
    return 0;
#endif
}

/* Whether the page is one that this build can read. Returns -1 with a ValueError. */
static int
reader_check(PageReader *self)
{
    if (self->size < HEAP_START) {
        PyErr_Format(PyExc_ValueError, "the page is cut: it has %zu bytes, and its log alone %d", self->size, HEAP_START);
        return -1;
    }
    Header header;
    memcpy(&header, self->base, sizeof header);
    if (header.magic != MAGIC)
        PyErr_SetString(PyExc_ValueError, "this is not a page: the magic number is missing");
    else if (header.byte_order != BYTE_ORDER_WORD)
        PyErr_SetString(PyExc_ValueError, "the page has another byte order");
    else if (header.layout != LAYOUT)
        PyErr_Format(PyExc_ValueError, "the page has layout %llu, and this version reads %d",
                     (unsigned long long)header.layout, LAYOUT);
    else if (header.line_size != LINE || header.ring_size != RING)
        PyErr_SetString(PyExc_ValueError, "the page has a log of another size");
    else if (header.published_size < HEAP_START || header.published_size > self->size)
        PyErr_Format(PyExc_ValueError, "the page is cut: it has %zu bytes of %llu", self->size,
                     (unsigned long long)header.published_size);
    else if (self->data != NULL && header.head - header.done > MAX_OPEN_LINES)
        PyErr_SetString(PyExc_ValueError, "the page is damaged: more lines are unfinished than a record has");
    else
        return 0;
    return -1;
}

static PageReader *
reader_alloc(PyTypeObject *type)
{
    PageReader *self = (PageReader *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->state = state_of_type(type);
        self->file = -1;
    }
    return self;
}

static PyObject *
reader_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"file", NULL};
    int file;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:PageReader", names, &file))
        return NULL;
#ifdef HAS_SHARING
    PageReader *self = reader_alloc(type);
    if (self == NULL)
        return NULL;
    self->file = fcntl(file, F_DUPFD_CLOEXEC, 0);
    if (self->file < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else if (reader_map(self) >= 0) {
        /* The process may have made the file larger between the two looks at its size. */
        if (self->size >= HEAP_START && READER_HEADER(self)->published_size > self->size && reader_map(self) < 0)
            goto failed;
        if (reader_check(self) == 0)
            return (PyObject *)self;
    }
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
#else
    PyErr_SetString(PyExc_NotImplementedError, "this platform cannot share pages");
    return NULL;
#endif
}

static PyObject *
reader_of(PyObject *type, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_Format(PyExc_TypeError, "%R is not bytes", data);
        return NULL;
    }
    PageReader *self = reader_alloc((PyTypeObject *)type);
    if (self == NULL)
        return NULL;
    self->data = Py_NewRef(data);
    self->base = (const uint8_t *)PyBytes_AsString(data);
    self->size = (size_t)PyBytes_Size(data);
    if (reader_check(self) != 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *
reader_close(PageReader *self, PyObject *unused)
{
    reader_unmap(self);
#ifdef HAS_SHARING
    if (self->file >= 0)
        close(self->file);
#endif
    self->file = -1;
    Py_CLEAR(self->data);
    Py_RETURN_NONE;
}

static void
reader_dealloc(PyObject *object)
{
    PageReader *self = (PageReader *)object;
    Py_DECREF(reader_close(self, NULL));
    for (int i = 0; i < MAX_PARTS; i++)
        free(self->parts[i].bytes);
    free(self->found);
    plain_dealloc(object);
}

static int
reader_is_open(const PageReader *self)
{
    if (self->base == NULL)
        PyErr_SetString(PyExc_ValueError, "the reader is closed");
    return self->base != NULL;
}

static PyObject *
reader_header(PageReader *self, PyObject *unused)
{
    if (!reader_is_open(self))
        return NULL;
    Header h;
    memcpy(&h, self->base, sizeof h);
    return Py_BuildValue("{sKsKsy#sKsKsLsLsKsKsKsKsKsK}", "process", (unsigned long long)h.process, "process_start",
                         (unsigned long long)h.process_start, "boot", (const char *)h.boot, (Py_ssize_t)sizeof h.boot,
                         "generation", (unsigned long long)h.generation, "worker", (unsigned long long)h.worker,
                         "anchor_monotonic", (long long)h.anchor_monotonic, "anchor_wall", (long long)h.anchor_wall,
                         "records", (unsigned long long)h.records, COUNTER_NAMES[0], (unsigned long long)h.counters[0],
                         COUNTER_NAMES[1], (unsigned long long)h.counters[1], COUNTER_NAMES[2],
                         (unsigned long long)h.counters[2], "unfinished", (unsigned long long)(h.head - h.done), "size",
                         (unsigned long long)self->size);
}

/* -- the directory, from outside -- */

/* A change of the directory: everything is copied before the first Python object is made. */
typedef struct {
    uint32_t index, value_count, slot;
    uint8_t *text; /* NULL: removed; else the length and bytes of the key, then those of each value */
} Change;

typedef struct {
    Change *changes;
    size_t count, capacity;
} Changes;

static int
changes_add(Changes *changes, uint32_t index, uint32_t value_count, uint32_t slot, uint8_t *text)
{
    if (changes->count == changes->capacity) {
        size_t capacity = changes->capacity ? 2 * changes->capacity : 64;
        Change *more = REALLOC(changes->changes, capacity * sizeof *more);
        if (more == NULL) {
            free(text);
            return -1;
        }
        changes->changes = more;
        changes->capacity = capacity;
    }
    changes->changes[changes->count++] = (Change){index, value_count, slot, text};
    return 0;
}

/* Copy the entry that a word refers to. Returns 1; 0 if it lies beyond the file; -1 if it is damaged or has changed
 * meanwhile; -2 without memory. */
static int
reader_entry(const PageReader *self, const volatile uint64_t *word, uint64_t value, Found *found, Change *change)
{
    uint64_t offset = value & UINT32_MAX;
    DirectoryEntry entry;
    uint32_t key_length, length;
    if (offset % ((size_t)1 << SMALLEST_CLASS))
        return -1;
    if (!reader_has(self, offset, sizeof entry))
        return 0;
    memcpy(&entry, self->base + offset, sizeof entry);
    if (entry.text_length > LARGEST_BLOCK || entry.kind >= KINDS || entry.state % LINE || entry.slot % LINE)
        return -1;
    if (!reader_has(self, offset + sizeof entry, entry.text_length) || !reader_has(self, entry.key, 4) ||
        !reader_has(self, entry.state, STATE_SIZES[entry.kind]) ||
        !reader_has(self, entry.slot, LINE + 2 * STATE_SIZES[entry.kind]))
        return 0;
    memcpy(&key_length, self->base + entry.key, 4);
    if (key_length > LARGEST_BLOCK)
        return -1;
    if (!reader_has(self, (uint64_t)entry.key + 4, key_length))
        return 0;
    uint8_t *text = MALLOC(4 + (size_t)key_length + entry.text_length);
    if (text == NULL)
        return -2;
    memcpy(text, &key_length, 4);
    memcpy(text + 4, self->base + entry.key + 4, key_length);
    memcpy(text + 4 + key_length, self->base + offset + sizeof entry, entry.text_length);
    size_t at = 4 + (size_t)key_length, end = at + entry.text_length;
    int is_good = 1;
    for (uint32_t i = 0; i < entry.value_count && is_good; i++) {
        is_good = end - at >= 4;
        if (is_good) {
            memcpy(&length, text + at, 4);
            is_good = length <= end - at - 4;
            at += 4 + (size_t)length;
        }
    }
    ORDER_LOADS();
    if (!is_good || *word != value) {
        free(text);
        return -1;
    }
    *found = (Found){value, 0, entry.state, entry.slot, (uint8_t)entry.kind, 0};
    *change = (Change){0, entry.value_count, entry.slot, text};
    return 1;
}

static int
reader_make_room(PageReader *self, uint32_t count)
{
    if (count > self->capacity) {
        uint32_t capacity = self->capacity ? self->capacity : (uint32_t)TABLE_WORDS(FIRST_TABLE_CLASS);
        while (capacity < count)
            capacity *= 2;
        Found *found = REALLOC(self->found, capacity * sizeof *found);
        if (found == NULL)
            return -1;
        memset(found + self->capacity, 0, (capacity - self->capacity) * sizeof *found);
        self->found = found;
        self->capacity = capacity;
    }
    if (count > self->count)
        self->count = count;
    return 0;
}

/* Return the words of a table and how many there are; NULL after the last one. */
static const volatile uint64_t *
reader_table(const PageReader *self, size_t table, uint64_t *offset, size_t *words)
{
    size_t size = class_size(table_class(table));
    *offset = table == 0 ? READER_HEADER(self)->directory : *(const volatile uint64_t *)(self->base + *offset);
    *words = size / 8 - 1;
    ORDER_LOADS();
    if (!reader_has(self, *offset, size) || *offset % LINE)
        return NULL;
    return (const volatile uint64_t *)(self->base + *offset) + 1;
}

static const volatile uint64_t *
reader_word(const PageReader *self, uint32_t index)
{
    size_t place, table = table_of_index(index, &place), words;
    uint64_t offset = 0;
    const volatile uint64_t *found = NULL;
    for (size_t i = 0; i <= table; i++) {
        found = reader_table(self, i, &offset, &words);
        if (found == NULL)
            return NULL;
    }
    return found + place - 1;
}

/* Collect all changes of the directory since the last time. Returns -1 without memory. */
static int
reader_collect(PageReader *self, Changes *changes)
{
    const volatile uint64_t *words;
    uint64_t offset = 0;
    size_t number;
    uint32_t index = 1;
    for (size_t table = 0; index <= MAX_DIRECTORY && (words = reader_table(self, table, &offset, &number)) != NULL;
         table++) {
        for (size_t i = 0; i < number && index <= MAX_DIRECTORY; i++, index++) {
            uint64_t word = words[i], known = index < self->count ? self->found[index].word : 0;
            if (word == known)
                continue;
            if (reader_make_room(self, index + 1) != 0)
                return -1;
            Found *found = &self->found[index];
            if (known != 0) {
                int was_reported = !found->is_damaged;
                memset(found, 0, sizeof *found);
                if (was_reported && changes_add(changes, index, 0, 0, NULL) != 0)
                    return -1;
            }
            if (word == 0)
                continue;
            Change change;
            ORDER_LOADS();
            int result = reader_entry(self, &words[i], word, found, &change);
            if (result == -2 || (result == 1 && changes_add(changes, index, change.value_count, change.slot, change.text) != 0))
                return -1;
            if (result == -1 && words[i] == word) {
                *found = (Found){word, 0, 0, 0, 0, 1}; /* counted once */
                self->damaged++;
            }
        }
    }
    return 0;
}

static PyObject *
change_object(const Change *change)
{
    uint32_t length;
    const uint8_t *text = change->text;
    if (text == NULL)
        return Py_BuildValue("(IO)", change->index, Py_None);
    memcpy(&length, text, 4);
    PyObject *key = PyBytes_FromStringAndSize((const char *)text + 4, length);
    PyObject *values = key ? PyTuple_New(change->value_count) : NULL;
    text += 4 + length;
    for (uint32_t i = 0; values != NULL && i < change->value_count; i++) {
        memcpy(&length, text, 4);
        PyObject *value = PyUnicode_DecodeUTF8((const char *)text + 4, length, "surrogatepass");
        text += 4 + length;
        if (value == NULL || PyTuple_SetItem(values, i, value) != 0)
            Py_CLEAR(values);
    }
    PyObject *result = values ? Py_BuildValue("(I(OOI))", change->index, key, values, change->slot) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(values);
    return result;
}

static PyObject *
reader_poll(PageReader *self, PyObject *unused)
{
    if (!reader_is_open(self) || (self->data == NULL && reader_map(self) < 0))
        return NULL;
    Changes changes = {NULL, 0, 0};
    PyObject *list = reader_collect(self, &changes) == 0 ? PyList_New(0) : PyErr_NoMemory();
    for (size_t i = 0; i < changes.count; i++) {
        PyObject *change = list ? change_object(&changes.changes[i]) : NULL;
        if (list != NULL && change == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            self->damaged++;
            if (changes.changes[i].index < self->count)
                self->found[changes.changes[i].index].is_damaged = 1;
        }
        else if (list != NULL && (change == NULL || PyList_Append(list, change) != 0))
            Py_CLEAR(list);
        Py_XDECREF(change);
        free(changes.changes[i].text);
    }
    free(changes.changes);
    if (list == NULL && self->found != NULL) /* the next time reports everything again */
        memset(self->found, 0, self->capacity * sizeof *self->found);
    return list;
}

static PyObject *
reader_changed(PageReader *self, PyObject *unused)
{
    if (!reader_is_open(self))
        return NULL;
    uint32_t *indexes = MALLOC((self->count ? self->count : 1) * sizeof *indexes);
    Py_ssize_t count = 0;
    if (indexes == NULL)
        return PyErr_NoMemory();
    for (uint32_t index = 1; index < self->count; index++) {
        const Found *found = &self->found[index];
        /* The first words of a state are its number of records; an outcome has two. */
        if (found->word != 0 && !found->is_damaged && state_records(found->kind, self->base + found->state) != found->records)
            indexes[count++] = index;
    }
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *index = PyLong_FromUnsignedLong(indexes[i]);
        if (index == NULL || PyList_SetItem(list, i, index) != 0)
            Py_CLEAR(list);
    }
    free(indexes);
    return list;
}

/* -- copies of states -- */

/* Copy a part of the page, as it is. Returns 0 if it lies beyond the file, -1 with an error. */
static int
reader_copy(PageReader *self, uint64_t offset, size_t size)
{
    if (!reader_has(self, offset, size))
        return 0;
    Part *part = &self->parts[self->part_count];
    if (part->capacity < size) {
        uint8_t *bytes = REALLOC(part->bytes, size);
        if (bytes == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        part->bytes = bytes;
        part->capacity = size;
    }
    part->offset = offset;
    part->size = size;
    memcpy(part->bytes, self->base + offset, size);
    self->part_count++;
    return 1;
}

/* Put the images of the log into the copies, down to the last finished record: the oldest image of a line wins. */
static void
take_back(PageReader *self, uint64_t head, uint64_t done)
{
    for (uint64_t entry = head; entry != done;) {
        entry--;
        uint64_t offset = ((const volatile uint64_t *)(self->base + RING_OFFSETS))[entry & (RING - 1)];
        const uint8_t *image = self->base + RING_IMAGES + (entry & (RING - 1)) * LINE;
        for (int i = 0; i < self->part_count; i++) {
            Part *part = &self->parts[i];
            if (offset >= part->offset + part->size || offset + LINE <= part->offset)
                continue;
            uint64_t from = offset > part->offset ? offset : part->offset;
            uint64_t end = offset + LINE < part->offset + part->size ? offset + LINE : part->offset + part->size;
            memcpy(part->bytes + (from - part->offset), image + (from - offset), (size_t)(end - from));
        }
    }
}

static int
is_class(uint64_t class)
{
    return class >= SMALLEST_CLASS && class < CLASSES;
}

static int
cells_are_good(const Cells *cells, uint32_t flags)
{
    if (cells->block == 0)
        return 1;
    if (!is_class(cells->class))
        return 0;
    return !(flags & BUCKETED) || ((cells->width == 1 || cells->width == 2 || cells->width == 4 || cells->width == 8) &&
                                   cells->low > -MAX_INDEX && cells->low < MAX_INDEX);
}

/* Copy the blocks of a state that is copied. Returns 1; 0 if they lie beyond the file; -1 with an error; -2 if the state
 * cannot be right. */
static int
reader_copy_blocks(PageReader *self, int kind, const void *state, int with_bounds)
{
    if (kind == OUTCOME) {
        const OutcomeState *o = state;
        if (o->block == 0)
            return 1;
        if (!is_class(o->class))
            return -2;
        return reader_copy(self, o->block, class_size((int)o->class));
    }
    if (kind != DISTRIBUTION)
        return 1;
    const DistributionState *d = state;
    if (!cells_are_good(&d->positive, d->flags) || !cells_are_good(&d->negative, d->flags) ||
        (with_bounds && d->bounds && (!is_class(d->bounds_class) || class_size(d->bounds_class) < sizeof(BoundsSum))))
        return -2;
    int result = d->positive.block ? reader_copy(self, d->positive.block, class_size(d->positive.class)) : 1;
    if (result == 1 && d->negative.block)
        result = reader_copy(self, d->negative.block, class_size(d->negative.class));
    if (result == 1 && with_bounds && d->bounds)
        result = reader_copy(self, d->bounds, class_size(d->bounds_class));
    return result;
}

/* What to read of an index. */
enum { READ_STATE, READ_SLOT, READ_RECENT };

/* Copy a state or a slot as it was after the last finished record of the page: part 0, and the blocks of its states.
 * Returns 1; 0 if there is nothing; -1 with an error. */
static int
reader_read(PageReader *self, uint32_t index, int what)
{
    const volatile Header *header = READER_HEADER(self);
    const Found *found = &self->found[index];
    size_t size = STATE_SIZES[found->kind];
    uint64_t tries = 0;
    int result;
    for (;; tries++) {
        if (tries == MAX_READ_TRIES) {
            PyErr_SetString(PyExc_ValueError, "the page is damaged: its log never fits a copy");
            result = -1;
            break;
        }
        uint64_t done = header->done;
        ORDER_LOADS();
        const volatile uint64_t *word = reader_word(self, index);
        if (word == NULL || *word != found->word) { /* it was removed; while it is there, its blocks are not used again */
            result = 0;
            break;
        }
        uint64_t offset = what == READ_STATE ? found->state : found->slot;
        if (what == READ_RECENT)
            offset = ((const volatile DirectoryEntry *)(self->base + (found->word & UINT32_MAX)))->recent;
        if (offset == 0) {
            result = 0;
            break;
        }
        self->part_count = 0;
        result = reader_copy(self, offset, what == READ_STATE ? size : LINE + 2 * size);
        if (result < 0)
            break;
        if (result == 0) {
            if (self->data == NULL && (result = reader_map(self)) == 1) {
                header = READER_HEADER(self);
                continue;
            }
            break;
        }
        ORDER_LOADS();
        uint64_t head = header->head;
        if (head - done > RING - LOG_MARGIN)
            continue;
#ifdef METRICS_CORE_DEBUG
        if (self->ignores_log)
            head = done;
#endif
        take_back(self, head, done);
        if (what == READ_STATE)
            result = reader_copy_blocks(self, found->kind, self->parts[0].bytes, 1);
        else
            for (int slot = 0; slot < 2 && result == 1; slot++)
                result = reader_copy_blocks(self, found->kind, self->parts[0].bytes + LINE + (size_t)slot * size, 0);
        ORDER_LOADS();
#ifdef METRICS_CORE_DEBUG
        if (self->ignores_log)
            break;
#endif
        if (result == 0 && self->data == NULL) { /* the file has grown, unless the block is in private memory */
            int mapped = reader_map(self);
            header = READER_HEADER(self);
            if (mapped == 1)
                continue;
            result = mapped;
        }
        if (result == -1)
            break;
        head = header->head;
        if (head - done > RING - LOG_MARGIN)
            continue;
        take_back(self, head, done);
        ORDER_LOADS();
        if (header->head - done <= RING - LOG_MARGIN)
            break;
    }
    self->retries += tries;
    if (tries > self->most_retries)
        self->most_retries = tries;
    if (result == -2) {
        PyErr_SetString(PyExc_ValueError, "the page is damaged: a state refers to no block");
        result = -1;
    }
    return result;
}

static int
damaged(const char *what)
{
    PyErr_Format(PyExc_ValueError, "the page is damaged: %s", what);
    return -1;
}

static int
is_number(uint64_t word, int is_int)
{
    return is_int || isfinite(word_real(word, 0));
}

/* Whether a distribution's copy can be right: no later computation may fail or read beyond it. */
static int
distribution_check(const DistributionState *d, const uint8_t *above, const uint8_t *below)
{
    uint64_t counted = d->zeros;
    if (isnan(d->real) || isnan(d->error) || !isfinite(d->mean) || !(d->squares >= 0.0) ||
        !is_number(d->min, d->flags & VALUES_INT_MIN) || !is_number(d->max, d->flags & VALUES_INT_MAX) ||
        d->failures > d->count || d->halvings > SCALE + 30)
        return damaged("a distribution has numbers that cannot occur");
    if (!(d->flags & BUCKETED)) {
        if (d->count > EXACT_VALUES || (d->count && (above == NULL || d->count * 8 > class_size(d->positive.class))))
            return damaged("a distribution has more values than room");
        for (uint64_t i = 0; i < d->count; i++)
            if (!isfinite(((const double *)above)[i]))
                return damaged("a distribution has values that are not finite");
        return 0;
    }
    for (int sign = 0; sign < 2; sign++) {
        Row row = block_row(sign ? &d->negative : &d->positive, sign ? below : above);
        if (row.length > MAX_INDEXES)
            return damaged("a distribution has too many buckets");
        for (int32_t i = 0; i < row.length; i++)
            counted += cell_get(row.cells, row.width, i);
    }
    return counted == d->count ? 0 : damaged("the buckets of a distribution do not add up");
}

/* The blocks of a copied state, in the order in which they were copied. */
typedef struct {
    const uint8_t *first, *second, *bounds;
} Blocks;

static Blocks
reader_blocks(const PageReader *self, int kind, const void *state, int *part)
{
    Blocks blocks = {NULL, NULL, NULL};
    if (kind == OUTCOME && ((const OutcomeState *)state)->block)
        blocks.first = self->parts[(*part)++].bytes;
    if (kind == DISTRIBUTION && ((const DistributionState *)state)->positive.block)
        blocks.first = self->parts[(*part)++].bytes;
    if (kind == DISTRIBUTION && ((const DistributionState *)state)->negative.block)
        blocks.second = self->parts[(*part)++].bytes;
    if (*part < self->part_count) /* only ever the last one */
        blocks.bounds = self->parts[*part].bytes;
    return blocks;
}

#define MAX_TIME ((int64_t)1 << 61) /* far later than any clock; differences of times never overflow */

/* Return the aggregate of a copied state that is no outcome. Runs no Python. */
static PyObject *
reader_aggregate(const PageReader *self, int kind, const void *state, const Blocks *blocks)
{
    switch (kind) {
    case COUNTER: {
        const CounterState *c = state;
        Sum sum = {c->integer, c->real, c->error, (unsigned)c->flags};
        if (isnan(c->real) || isnan(c->error) || c->flags & ~(uint64_t)(HAS_REAL | OVERFLOWED)) {
            damaged("a counter has numbers that cannot occur");
            return NULL;
        }
        return counter_new(self->state->counter, c->count, &sum);
    }
    case GAUGE: {
        const GaugeState *g = state;
        if (!(g->flags & STARTED) || g->flags > 63 || !is_number(g->last, g->flags & LAST_INT) ||
            !is_number(g->min, g->flags & MIN_INT) || !is_number(g->max, g->flags & MAX_INT) ||
            !is_number(g->first, g->flags & FIRST_INT) || g->first_ns < -MAX_TIME || g->first_ns > g->last_ns ||
            g->last_ns > MAX_TIME) {
            damaged("a gauge has numbers that cannot occur");
            return NULL;
        }
        return gauge_of_state(self->state->gauge, g);
    }
    default:
        return distribution_check(state, blocks->first, blocks->second) == 0
                   ? distribution_of_blocks(self->state->distribution, state, blocks->first, blocks->second)
                   : NULL;
    }
}

/* A copied outcome, with the names of its error types. */
typedef struct {
    uint64_t successes;
    size_t number;
    uint64_t *counts;
    uint8_t **names; /* length and bytes; NULL for a name that is not in the page */
} Endings;

static void
endings_free(Endings *endings)
{
    for (size_t i = 0; endings->names != NULL && i < endings->number; i++)
        free(endings->names[i]);
    free(endings->names);
    free(endings->counts);
}

/* Copy one name; NULL if it is not there. Returns -1 without memory. */
static int
reader_name(const PageReader *self, const uint64_t *table, size_t place, uint8_t **name)
{
    uint32_t block = 0, length = 0;
    if (place < table[1] && table[0] <= UINT32_MAX && reader_has(self, table[0] + 4 * place, 4))
        memcpy(&block, self->base + table[0] + 4 * place, 4);
    if (block != 0 && reader_has(self, block, 4))
        memcpy(&length, self->base + block, 4);
    if (length == 0 || length > LARGEST_BLOCK || !reader_has(self, (uint64_t)block + 4, length))
        return 0;
    *name = MALLOC(4 + (size_t)length);
    if (*name == NULL)
        return -1;
    memcpy(*name, &length, 4);
    memcpy(*name + 4, self->base + block + 4, length);
    return 0;
}

/* Copy an outcome before the first Python object is made. Returns 1; 0 if the series was removed; -1 with an error. */
static int
endings_copy(PageReader *self, uint32_t index, const OutcomeState *o, const uint8_t *block, Endings *endings)
{
    const volatile Header *header = READER_HEADER(self);
    const Found *found = &self->found[index];
    size_t number = block ? class_size((int)o->class) / 8 : 0;
    uint64_t failures = 0;
    memset(endings, 0, sizeof *endings);
    while (number > 0 && ((const uint64_t *)block)[number - 1] == 0)
        number--;
    for (size_t i = 0; i < number; i++)
        failures += ((const uint64_t *)block)[i];
    if (failures != o->failures)
        return damaged("the failures of an operation do not add up");
    endings->successes = o->successes;
    if (number == 0)
        return 1;
    endings->counts = MALLOC(number * 8);
    endings->names = MALLOC(number * sizeof *endings->names);
    if (endings->counts == NULL || endings->names == NULL)
        goto no_memory;
    memcpy(endings->counts, block, number * 8);
    memset(endings->names, 0, number * sizeof *endings->names);
    endings->number = number;
    /* Names stay as they are while the series is there, and their table while the log does not go round. */
    for (int tries = 0; tries < MAX_READ_TRIES; tries++) {
        uint64_t table[2], done = header->done;
        ORDER_LOADS();
        memcpy(table, self->base + found->slot + 2 * sizeof *table, sizeof table);
        for (size_t i = 0; i < number; i++) {
            free(endings->names[i]);
            endings->names[i] = NULL;
            if (endings->counts[i] && reader_name(self, table, i, &endings->names[i]) != 0)
                goto no_memory;
        }
        ORDER_LOADS();
        const volatile uint64_t *word = reader_word(self, index);
        if (word == NULL || *word != found->word)
            return 0;
        if (header->head - done <= RING - LOG_MARGIN)
            return 1;
        self->retries++;
    }
    return damaged("its log never fits a copy");
no_memory:
    PyErr_NoMemory();
    return -1;
}

static int
add_ending(PyObject *endings, PyObject *name, uint64_t number)
{
    PyObject *before = name ? PyDict_GetItemWithError(endings, name) : NULL;
    uint64_t sum = number + (before ? PyLong_AsUnsignedLongLong(before) : 0);
    PyObject *count = name && !PyErr_Occurred() ? PyLong_FromUnsignedLongLong(sum) : NULL;
    int result = count ? PyDict_SetItem(endings, name, count) : -1;
    Py_XDECREF(count);
    return result;
}

static PyObject *
endings_object(const State *state, const Endings *endings)
{
    PyObject *by_name = PyDict_New(), *result = NULL;
    int failed = by_name == NULL || (endings->successes && add_ending(by_name, Py_None, endings->successes) != 0);
    for (size_t i = 0; i < endings->number && !failed; i++) {
        uint32_t length;
        if (endings->counts[i] == 0)
            continue;
        PyObject *name;
        if (endings->names[i] == NULL) /* it was too long for the page, or there was no memory */
            name = PyUnicode_FromString("unknown");
        else {
            memcpy(&length, endings->names[i], 4);
            name = PyUnicode_DecodeUTF8((const char *)endings->names[i] + 4, length, "surrogatepass");
        }
        failed = add_ending(by_name, name, endings->counts[i]) != 0;
        Py_XDECREF(name);
    }
    if (!failed)
        result = outcome_of_dict(state->outcome, state->error_types, by_name);
    if (result == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        damaged("the name of an error type is not UTF-8");
    }
    Py_XDECREF(by_name);
    return result;
}

/* Return the index that an argument means, if the reader knows it; 0 if it does not, -1 with an error. */
static long
reader_index(const PageReader *self, PyObject *argument)
{
    long index = PyLong_AsLong(argument);
    if (index == -1 && PyErr_Occurred())
        return -1;
    if (!reader_is_open(self))
        return -1;
    return index > 0 && index < (long)self->count && self->found[index].word != 0 && !self->found[index].is_damaged
               ? index
               : 0;
}

/* Copy the counts by bounds and the sum of what is counted. Returns how many they are; -1 with an error. */
static Py_ssize_t
reader_counts(const DistributionState *d, const uint8_t *block, uint64_t **counts, Sum *total)
{
    const BoundsSum *sum = (const BoundsSum *)block;
    uint64_t counted = 0;
    *counts = NULL;
    if (d->bounds == 0)
        return 0;
    *total = (Sum){d->integer, d->real, d->error, d->flags & (HAS_REAL | OVERFLOWED)};
    if (sum->number > LARGEST_BLOCK || (BOUNDS_WORDS + sum->number + 1) * 8 > class_size(d->bounds_class) ||
        isnan(sum->real) || isnan(sum->error))
        return damaged("counts by bounds have numbers that cannot occur");
    size_t number = (size_t)sum->number + 1;
    const uint64_t *from = (const uint64_t *)(sum + 1);
    for (size_t i = 0; i < number; i++)
        counted += from[i];
    if (sum->began_later ? counted > d->count : counted != d->count)
        return damaged("counts by bounds do not add up");
    if (sum->began_later)
        *total = (Sum){sum->integer, sum->real, sum->error, (unsigned)sum->flags & (HAS_REAL | OVERFLOWED)};
    *counts = MALLOC(number * 8);
    if (*counts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(*counts, from, number * 8);
    return (Py_ssize_t)number;
}

static PyObject *
reader_read_series(PageReader *self, PyObject *argument)
{
    long index = reader_index(self, argument);
    if (index <= 0)
        return index < 0 ? NULL : Py_NewRef(Py_None);
    Found *found = &self->found[index];
    int kind = found->kind, part = 1;
    /* Not read again until something is recorded, also if it is damaged. */
    found->records = state_records(kind, self->base + found->state);
    int result = reader_read(self, (uint32_t)index, READ_STATE);
    if (result != 1)
        return result < 0 ? NULL : Py_NewRef(Py_None);
    const void *state = self->parts[0].bytes;
    found->records = state_records(kind, state);
    if (found->records == 0)
        Py_RETURN_NONE;
    long long created = state_created_ns(kind, state), last = state_last_ns(kind, state);
    Blocks blocks = reader_blocks(self, kind, state, &part);
    PyObject *aggregate, *tuple = NULL, *sum = NULL;
    uint64_t *counts = NULL;
    Py_ssize_t number = 0;
    Sum total = {0, 0.0, 0.0, 0};
    if (kind == OUTCOME) {
        Endings endings;
        result = endings_copy(self, (uint32_t)index, state, blocks.first, &endings);
        aggregate = result == 1 ? endings_object(self->state, &endings) : result == 0 ? Py_NewRef(Py_None) : NULL;
        endings_free(&endings);
        if (aggregate == Py_None)
            return aggregate;
    }
    else
        aggregate = reader_aggregate(self, kind, state, &blocks);
    if (aggregate != NULL && kind == DISTRIBUTION && (number = reader_counts(state, blocks.bounds, &counts, &total)) < 0)
        Py_CLEAR(aggregate);
    if (aggregate == NULL)
        return NULL;
    tuple = counts_object(counts, number);
    free(counts);
    sum = sum_value(&total);
    PyObject *answer = tuple && sum ? Py_BuildValue("(OOOLL)", aggregate, tuple, sum, created, last) : NULL;
    Py_DECREF(aggregate);
    Py_XDECREF(tuple);
    Py_XDECREF(sum);
    return answer;
}

/* Return the open slot and the last closed one. */
static PyObject *
reader_slots(PageReader *self, PyObject *argument, int what)
{
    long index = reader_index(self, argument);
    int result = index > 0 ? reader_read(self, (uint32_t)index, what) : 0, part = 1, kind;
    if (index < 0 || result < 0)
        return NULL;
    if (result == 0)
        return Py_BuildValue("(OO)", Py_None, Py_None);
    PyObject *slots[2] = {NULL, NULL}, *pairs[2] = {NULL, NULL}, *both = NULL;
    Endings endings[2];
    uint64_t starts[2];
    int is_there[2], i;
    kind = self->found[index].kind;
    memset(endings, 0, sizeof endings);
    memcpy(starts, self->parts[0].bytes, sizeof starts);
    for (i = 0; i < 2 && result == 1; i++) {
        const void *state = self->parts[0].bytes + LINE + (size_t)i * STATE_SIZES[kind];
        Blocks blocks = reader_blocks(self, kind, state, &part);
        is_there[i] = kind == GAUGE ? (((const GaugeState *)state)->flags & STARTED) != 0 : state_records(kind, state) != 0;
        if (!is_there[i])
            continue;
        if (kind == OUTCOME)
            result = endings_copy(self, (uint32_t)index, state, blocks.first, &endings[i]);
        else if ((slots[i] = reader_aggregate(self, kind, state, &blocks)) == NULL)
            result = -1;
    }
    /* From here on other Python code may run, and read with this reader. */
    for (i = 0; i < 2 && result == 1; i++) {
        if (is_there[i] && kind == OUTCOME)
            slots[i] = endings_object(self->state, &endings[i]);
        if (is_there[i] && slots[i] == NULL)
            result = -1;
        else
            pairs[i] = is_there[i] ? Py_BuildValue("(LO)", (long long)starts[i], slots[i]) : Py_NewRef(Py_None);
    }
    if (result == 0)
        both = Py_BuildValue("(OO)", Py_None, Py_None);
    else if (result == 1 && pairs[0] && pairs[1])
        both = PyTuple_Pack(2, pairs[0], pairs[1]);
    for (i = 0; i < 2; i++) {
        Py_XDECREF(slots[i]);
        Py_XDECREF(pairs[i]);
        endings_free(&endings[i]);
    }
    return both;
}

static PyObject *
reader_read_slots(PageReader *self, PyObject *argument)
{
    return reader_slots(self, argument, READ_SLOT);
}

static PyObject *
reader_read_recent(PageReader *self, PyObject *argument)
{
    return reader_slots(self, argument, READ_RECENT);
}

static PyObject *
reader_get(PageReader *self, void *closure)
{
    switch (*(const char *)closure) {
    case 'r':
        return PyLong_FromUnsignedLongLong(self->retries);
    case 'm':
        return PyLong_FromUnsignedLongLong(self->most_retries);
    default:
        return PyLong_FromUnsignedLongLong(self->damaged);
    }
}

#ifdef METRICS_CORE_DEBUG
static PyObject *
reader_debug_ignore_log(PageReader *self, PyObject *unused)
{
    self->ignores_log = 1;
    Py_RETURN_NONE;
}
#endif

static PyMethodDef reader_methods[] = {
    {"of", (PyCFunction)reader_of, METH_CLASS | METH_O,
     "of($type, data, /)\n--\n\nRead the page of a dead process from its bytes.\n\n"
     "Raises:\n    ValueError: If this is not a whole page of this version; the message has the reason."},
    {"close", (PyCFunction)reader_close, METH_NOARGS, "close($self, /)\n--\n\nUnmap the page. Later calls raise `ValueError`."},
    {"header", (PyCFunction)reader_header, METH_NOARGS,
     "header($self, /)\n--\n\nReturn what the header states: all arguments of `Core.share`, the id of the process, the\n"
     "numbers of records and of rejected, overflowed and abandoned ones, the lines of 64 bytes that an unfinished record\n"
     "may have changed, and the size of the page in bytes."},
    {"poll", (PyCFunction)reader_poll, METH_NOARGS,
     "poll($self, /)\n--\n\nReturn the changes of the directory since the last call.\n\n"
     "Returns:\n    Pairs of an index and a tuple: the key of a tag set, the tag values, and a number that all series of one slot\n"
     "    have. None in place of the tuple states that the series was removed; its index is used again. Damaged entries\n"
     "    are skipped: see ``damaged``."},
    {"changed", (PyCFunction)reader_changed, METH_NOARGS,
     "changed($self, /)\n--\n\nReturn the indexes of series with records since they were read last."},
    {"read", (PyCFunction)reader_read_series, METH_O,
     "read($self, index, /)\n--\n\nRead a series as it was after the last finished record of the process.\n\n"
     "Returns:\n    What `Series.set_others` takes; None if it has no records, was removed, or is partly in private memory.\n\n"
     "Raises:\n    ValueError: If it is damaged; the message has the reason."},
    {"read_slots", (PyCFunction)reader_read_slots, METH_O,
     "read_slots($self, index, /)\n--\n\nReturn the open slot that a series counts into, and the last closed one.\n\n"
     "Returns:\n    A pair; each is a pair of its start in nanoseconds and its aggregate, or None.\n\n"
     "Raises:\n    ValueError: If it is damaged; the message has the reason."},
    {"read_recent", (PyCFunction)reader_read_recent, METH_O,
     "read_recent($self, index, /)\n--\n\nReturn the open recent slot of a series, and the last closed one.\n\n"
     "Returns:\n    As `read_slots`.\n\nRaises:\n    ValueError: If it is damaged; the message has the reason."},
#ifdef METRICS_CORE_DEBUG
    {"debug_ignore_log", (PyCFunction)reader_debug_ignore_log, METH_NOARGS,
     "debug_ignore_log($self, /)\n--\n\nRead without the log, to see that it is needed."},
#endif
    {NULL},
};

static PyGetSetDef reader_getset[] = {
    {"retries", (getter)reader_get, NULL, "How often all reads began again, because the process recorded too much meanwhile.",
     "r"},
    {"most_retries", (getter)reader_get, NULL, "The most retries of one read.", "m"},
    {"damaged", (getter)reader_get, NULL, "The number of entries of the directory that were skipped.", "d"},
    {NULL},
};

static PyType_Slot reader_slots_of_type[] = {
    {Py_tp_doc, "PageReader(file)\n--\n\nReads the page that a live process shares, also while it records.\n\n"
                "A read never waits for the process, which may be stopped or killed. If another process cuts the file, the\n"
                "next read raises SIGBUS: use `of` for the file of a dead process. An object serves one thread at a time.\n\n"
                "Args:\n    file: A descriptor of the file; the reader has a copy of it.\n\n"
                "Raises:\n    ValueError: If this is not a page of this version; the message has the reason.\n"
                "    OSError: If it cannot be mapped.\n    NotImplementedError: On Windows."},
    {Py_tp_new, reader_tp_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getset},
    {0, NULL},
};

static PyType_Spec reader_spec = {"metrics_framework.recording._core.PageReader", sizeof(PageReader), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, reader_slots_of_type};

/* ---- the module ------------------------------------------------------------------------------------------- */

static PyObject *
module_monotonic_ns(PyObject *module, PyObject *unused)
{
    return PyLong_FromLongLong(precise_now(PyModule_GetState(module)));
}

static PyObject *
module_read_versions(PyObject *module, PyObject *given)
{
    State *state = PyModule_GetState(module);
    PyObject *sequence = PySequence_Fast(given, "read_versions() takes a sequence of series"), *bytes;
    if (sequence == NULL)
        return NULL;
    Py_ssize_t number = PySequence_Size(sequence);
    bytes = PyBytes_FromStringAndSize(NULL, number * 8);
    uint8_t *to = bytes ? (uint8_t *)PyBytes_AsString(bytes) : NULL;
    for (Py_ssize_t i = 0; bytes != NULL && i < number; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        if (item == NULL || !PyObject_TypeCheck(item, state->series)) {
            if (item != NULL)
                PyErr_Format(PyExc_TypeError, "%R is not a Series", item);
            Py_XDECREF(item);
            Py_CLEAR(bytes);
            break;
        }
        const Series *series = (Series *)item;
        uint64_t version =
            state_records(series->slot->kind, series->state) + (uint64_t)series->generation * 0x9E3779B97F4A7C15ULL;
        memcpy(to + 8 * i, &version, 8);
        Py_DECREF(item);
    }
    Py_DECREF(sequence);
    return bytes;
}

/* Return the last value of a gauge in all processes; 0 if there is none. */
static PyObject *
gauge_value(const Series *series)
{
    const GaugeState *g = series->state;
    int has_own = g != NULL && g->flags & STARTED;
    PyObject *reading = others_of(series);
    if (UNLIKELY(reading != NULL)) {
        const GaugeAggregate *others = (GaugeAggregate *)PyTuple_GetItem(reading, OTHERS_AGGREGATE);
        if (!(others->flags & STARTED) || !has_own)
            return has_own ? word_object(g->last, g->flags & LAST_INT) : word_object(others->last, others->flags & LAST_INT);
        GaugeAggregate own, both;
        gauge_fill(&own, g);
        gauge_combine_into(&both, &own, others, series_law(series, own.flags | others->flags));
        return word_object(both.last, both.flags & LAST_INT);
    }
    return has_own ? word_object(g->last, g->flags & LAST_INT) : PyLong_FromLong(0);
}

static PyObject *
module_read_values(PyObject *module, PyObject *given)
{
    State *state = PyModule_GetState(module);
    PyObject *sequence = PySequence_Fast(given, "read_values() takes a sequence of series"), *values;
    if (sequence == NULL)
        return NULL;
    Py_ssize_t number = PySequence_Size(sequence);
    values = PyTuple_New(number); /* a garbage collection happens here, before the first number is read */
    for (Py_ssize_t i = 0; values != NULL && i < number; i++) {
        PyObject *item = PySequence_GetItem(sequence, i), *value = NULL;
        const Series *series = (Series *)item;
        if (item != NULL && Py_TYPE(item) == state->counter_series) {
            const CounterState *c = series->state;
            Sum sum = {0, 0.0, 0.0, 0};
            if (c != NULL)
                sum = (Sum){c->integer, c->real, c->error, (unsigned)c->flags};
            PyObject *others = others_of(series);
            if (UNLIKELY(others != NULL)) {
                Sum more = counter_sum((CounterAggregate *)PyTuple_GetItem(others, OTHERS_AGGREGATE));
                sum_merge(&sum, &more);
            }
            value = sum_value(&sum);
        }
        else if (item != NULL && Py_TYPE(item) == state->gauge_series)
            value = gauge_value(series);
        else if (item != NULL)
            PyErr_Format(PyExc_TypeError, "%R is neither a counter nor a gauge", item);
        Py_XDECREF(item);
        if (value == NULL || PyTuple_SetItem(values, i, value) != 0)
            Py_CLEAR(values);
    }
    Py_DECREF(sequence);
    return values;
}

/* ---- for tests of the page: only in a debug build ---------------------------------------------------------- */

#ifdef METRICS_CORE_DEBUG
#include <stdio.h>

/* Remember all bytes, so that the next finished record can be compared. */
static void
page_remember(Page *page)
{
    if (page->shadow_size < page->committed) {
        free(page->shadow);
        page->shadow = malloc(page->committed);
        page->shadow_size = page->committed;
    }
    memcpy(page->shadow, page->base, page->top);
    page->checked_from = page->head;
    page->fresh_count = 0;
}

static int
was_logged(const Page *page, uint64_t offset)
{
    for (uint64_t entry = page->checked_from; entry < page->head; entry++)
        if (((const uint64_t *)AT(page, RING_OFFSETS))[entry & (RING - 1)] == offset)
            return 1;
    for (size_t i = 0; i < page->fresh_count; i += 2)
        if (offset + LINE > page->fresh[i] && offset < page->fresh[i] + page->fresh[i + 1])
            return 1;
    return 0;
}

static void
page_check(Page *page)
{
    if (page->shadow == NULL)
        return;
    for (uint64_t offset = HEAP_START; offset < page->top; offset += LINE)
        if (offset + LINE <= page->shadow_size && memcmp(page->shadow + offset, AT(page, offset), LINE) != 0 &&
            !was_logged(page, offset)) {
            fprintf(stderr, "the line at %llu changed without being logged\n", (unsigned long long)offset);
            abort();
        }
    page_remember(page);
}

static PyObject *
core_debug_check(Core *self, PyObject *unused)
{
    page_remember(&self->page);
    Py_RETURN_NONE;
}

/* Record into a histogram and a counter in C, for a time or for ever: value k is k % 1000 + 1, and the counter adds it. */
static PyObject *
debug_write(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    PyObject *histogram, *counter;
    double seconds;
    if (!PyArg_ParseTuple(args, "O!O!d", state->histogram_series, &histogram, state->counter_series, &counter, &seconds))
        return NULL;
    int64_t end = system_now() + (int64_t)(seconds * 1e9);
    uint64_t k = 0;
    for (int64_t now = system_now(); seconds < 0 || now < end; now = system_now(), k++) {
        Number value = integer_number((int64_t)(k % 1000) + 1);
        if (record_value((Series *)histogram, value, 0, now) < 0 || record_counter((Series *)counter, value, now) < 0)
            return NULL;
    }
    return PyLong_FromUnsignedLongLong(k);
}

static PyObject *
debug_fail_after(PyObject *module, PyObject *number)
{
    long value = PyLong_AsLong(number);
    if (value == -1 && PyErr_Occurred())
        return NULL;
    long before = fail_after;
    fail_after = (int)value;
    return PyLong_FromLong(before);
}

#define DEBUG_METHODS                                                                                                  \
    {"debug_write", debug_write, METH_VARARGS,                                                                         \
     "debug_write($module, histogram, counter, seconds, /)\n--\n\nRecord a pattern in a loop; for ever if negative."}, \
        {"debug_fail_after", debug_fail_after, METH_O,                                                                 \
         "debug_fail_after($module, number, /)\n--\n\nLet an allocation fail after some; a negative number: none."},
#endif

static PyMethodDef module_methods[] = {
    {"monotonic_ns", module_monotonic_ns, METH_NOARGS,
     "monotonic_ns($module, /)\n--\n\nReturn nanoseconds that never run backwards: the clock that records are timed by."},
    {"read_versions", module_read_versions, METH_O,
     "read_versions($module, series, /)\n--\n\nReturn bytes that are equal as long as nothing is recorded in some series."},
    {"read_values", module_read_values, METH_O,
     "read_values($module, series, /)\n--\n\nReturn the totals of counters and the last values of gauges, in one step."},
#ifdef METRICS_CORE_DEBUG
    DEBUG_METHODS
#endif
    {NULL},
};

#define TYPES(X)                                                                                                       \
    X(core, core_spec, NULL, "Core")                                                                                   \
    X(error_types, error_types_spec, NULL, "ErrorTypes")                                                               \
    X(slot, slot_spec, NULL, "Slot")                                                                                   \
    X(tag_set, tag_set_spec, NULL, "TagSet")                                                                           \
    X(series, series_spec, NULL, "Series")                                                                             \
    X(counter_series, counter_series_spec, state->series, "CounterSeries")                                             \
    X(gauge_series, gauge_series_spec, state->series, "GaugeSeries")                                                   \
    X(histogram_series, histogram_series_spec, state->series, "HistogramSeries")                                       \
    X(timer_series, timer_series_spec, state->series, "TimerSeries")                                                   \
    X(outcome_series, outcome_series_spec, state->series, "OutcomeSeries")                                             \
    X(stopwatch, stopwatch_spec, NULL, "Stopwatch")                                                                    \
    X(name_entry, name_entry_spec, NULL, "NameEntry")                                                                  \
    X(index, index_spec, NULL, "SeriesIndex")                                                                          \
    X(recorder, recorder_spec, NULL, "Recorder")                                                                       \
    X(timers, timers_spec, NULL, "RunningTimers")                                                                      \
    X(operations, operations_spec, NULL, "OperationRecorder")                                                          \
    X(log, log_spec, NULL, "RecordLog")                                                                                \
    X(account, account_spec, NULL, "InternalCounter")                                                                  \
    X(reader, reader_spec, NULL, "PageReader")                                                                         \
    X(counter, counter_spec, NULL, "CounterAggregate")                                                                 \
    X(gauge, gauge_spec, NULL, "GaugeAggregate")                                                                       \
    X(distribution, distribution_spec, NULL, "Distribution")                                                           \
    X(outcome, outcome_spec, NULL, "OutcomeAggregate")

#define TEXTS(X)                                                                                                       \
    X(name) X(value) X(tags) X(unit) X(duration) X(step) X(metadata) X(success) X(operation_name) X(timer_id)          \
    X(error_type) X(milliseconds) X(number) X(readmit) X(find) X(find_step) X(find_timing) X(find_outcomes)            \
    X(count_abandoned) X(plain_metadata) X(counter) X(gauge) X(histogram) X(timer) X(index) X(operation) X(elapsed_ns)

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *values = NULL, *units = NULL, *errors = NULL;
    int result = -1;
#ifdef CLOCK_MONOTONIC_COARSE
    int64_t tick = clock_now(CLOCK_MONOTONIC_COARSE), age = system_now() - tick;
    state->has_ticks = tick >= 0 && age >= 0 && age < SLOT_NS; /* where time is faked, the clocks may differ */
#endif
#define MAKE_TYPE(member, spec, base, name)                                                                            \
    state->member = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, (PyObject *)(base));                       \
    if (state->member == NULL ||                                                                                       \
        (name[0] != 'N' && PyModule_AddObjectRef(module, name, (PyObject *)state->member) != 0))                       \
        return -1;
    TYPES(MAKE_TYPE)
#define MAKE_TEXT(text)                                                                                                \
    state->s_##text = PyUnicode_InternFromString(#text);                                                               \
    if (state->s_##text == NULL)                                                                                       \
        return -1;
    TEXTS(MAKE_TEXT)
    values = PyImport_ImportModule("metrics_framework.values");
    errors = values ? PyImport_ImportModule("metrics_framework.errors") : NULL;
    units = errors ? PyObject_GetAttrString(values, "MetricUnit") : NULL;
    if (units == NULL)
        goto done;
    state->milliseconds = PyObject_GetAttrString(units, "MILLISECONDS");
    state->seconds = PyObject_GetAttrString(units, "SECONDS");
    state->microseconds = PyObject_GetAttrString(units, "MICROSECONDS");
    state->timing_result = PyObject_GetAttrString(values, "TimingResult");
    state->unknown_timer_error = PyObject_GetAttrString(errors, "UnknownTimerError");
    state->pending = PyUnicode_InternFromString("pending");
    if (state->milliseconds == NULL || state->seconds == NULL || state->microseconds == NULL ||
        state->timing_result == NULL || state->unknown_timer_error == NULL || state->pending == NULL)
        goto done;
    if (PyModule_AddIntConstant(module, "LAYOUT", LAYOUT) != 0)
        goto done;
    PyObject *recent = PyLong_FromLongLong(RECENT_NS);
    result = recent == NULL ? -1 : PyModule_AddObjectRef(module, "RECENT_NS", recent);
    Py_XDECREF(recent);
done:
    Py_XDECREF(values);
    Py_XDECREF(units);
    Py_XDECREF(errors);
    return result;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT_TYPE(member, spec, base, name) Py_VISIT((PyObject *)state->member);
    TYPES(VISIT_TYPE)
    Py_VISIT(state->milliseconds);
    Py_VISIT(state->seconds);
    Py_VISIT(state->microseconds);
    Py_VISIT(state->timing_result);
    Py_VISIT(state->unknown_timer_error);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR_TYPE(member, spec, base, name) Py_CLEAR(state->member);
    TYPES(CLEAR_TYPE)
#define CLEAR_TEXT(text) Py_CLEAR(state->s_##text);
    TEXTS(CLEAR_TEXT)
    Py_CLEAR(state->milliseconds);
    Py_CLEAR(state->seconds);
    Py_CLEAR(state->microseconds);
    Py_CLEAR(state->timing_result);
    Py_CLEAR(state->unknown_timer_error);
    Py_CLEAR(state->pending);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_core",
    .m_doc = "The compiled recording engine; see `metrics_framework.recording.engine`.",
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
