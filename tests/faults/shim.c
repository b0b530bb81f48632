/* Makes the n-th call that changes files below a folder fail: for tests. LD_PRELOAD this into a process, then arm it.
 *
 *   fault_arm(folder, nth, kind)   kind 0: count only.  1: the disk is full from the n-th call on (ENOSPC for whatever
 *                                  needs space).  2: the n-th call fails with EIO.  3: the n-th write writes half.
 *   fault_count()                  calls so far
 *
 * h5py, faiss and torch write from C and C++, so nothing above the C library sees all writes. glibc's own fwrite does
 * not go through its public write, so both are caught.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FULL, BROKEN, SHORT };
static char folder[PATH_MAX];
static long nth;
static int kind = COUNT;
static atomic_long calls;

void fault_arm(const char *where, long number, int how) {
    snprintf(folder, sizeof folder, "%s", where);
    nth = number;
    kind = how;
    atomic_store(&calls, 0);
}

long fault_count(void) { return atomic_load(&calls); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    size_t length = strlen(folder);
    return length && path && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int fd_below(int fd) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = folder[0] ? readlink(link, path, sizeof path - 1) : -1;
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

enum { PASS, FAIL, HALF };
static int verdict(int ours, int needs_space) {
    if (!ours) return PASS;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (kind == FULL && number >= nth && needs_space) { errno = ENOSPC; return FAIL; }
    if (kind == BROKEN && number == nth) { errno = EIO; return FAIL; }
    return kind == SHORT && number == nth ? HALF : PASS;
}

static size_t part(int said, size_t size) { return said == HALF && size > 1 ? size / 2 : size; }

/* Writers of bytes: they can be cut short. */
#define WRITER(name, fd, declared, given) \
    ssize_t name declared { \
        int said = verdict(fd_below(fd), 1); \
        return said == FAIL ? -1 : REAL(name) given; \
    }
WRITER(write, fd, (int fd, const void *data, size_t size), (fd, data, part(said, size)))
WRITER(pwrite, fd, (int fd, const void *data, size_t size, off_t at), (fd, data, part(said, size), at))
WRITER(pwrite64, fd, (int fd, const void *data, size_t size, off64_t at), (fd, data, part(said, size), at))
WRITER(writev, fd, (int fd, const struct iovec *parts, int count),
       (fd, parts, said == HALF && count > 1 ? count - 1 : count))
WRITER(sendfile, fd, (int fd, int from, off_t *at, size_t size), (fd, from, at, part(said, size)))
WRITER(sendfile64, fd, (int fd, int from, off64_t *at, size_t size), (fd, from, at, part(said, size)))
WRITER(copy_file_range, fd, (int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags),
       (from, at, fd, to, part(said, size), flags))

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    /* A short write of the system is nothing that its caller sees: glibc goes on. */
    return verdict(fd_below(fileno(stream)), 1) == FAIL ? 0 : REAL(fwrite)(data, size, count, stream);
}

int fclose(FILE *stream) {
    int said = verdict(fd_below(fileno(stream)), 0), why = errno, closed = REAL(fclose)(stream);
    if (said != FAIL) return closed;
    errno = why;
    return EOF;
}

/* The others succeed or fail as a whole. */
#define CALL(name, ours, space, declared, given) \
    int name declared { return verdict(ours, space) == FAIL ? -1 : REAL(name) given; }
CALL(fsync, fd_below(fd), 0, (int fd), (fd))
CALL(fdatasync, fd_below(fd), 0, (int fd), (fd))
CALL(ftruncate, fd_below(fd), 0, (int fd, off_t size), (fd, size))
CALL(ftruncate64, fd_below(fd), 0, (int fd, off64_t size), (fd, size))
CALL(fallocate, fd_below(fd), 1, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
CALL(fallocate64, fd_below(fd), 1, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
CALL(rename, below(to), 0, (const char *from, const char *to), (from, to))
CALL(renameat, below(to), 0, (int a, const char *from, int b, const char *to), (a, from, b, to))
CALL(mkdir, below(path), 1, (const char *path, mode_t mode), (path, mode))
CALL(mkdirat, below(path), 1, (int at, const char *path, mode_t mode), (at, path, mode))
CALL(link, below(to), 1, (const char *from, const char *to), (from, to))
CALL(symlink, below(to), 1, (const char *from, const char *to), (from, to))

#define ALLOCATE(name, offset) \
    int name(int fd, offset at, offset size) { \
        return verdict(fd_below(fd), 1) == FAIL ? errno : REAL(name)(fd, at, size); \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

/* Opening counts where it may make a file. */
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (flags & O_CREAT && verdict(below(path), 1) == FAIL) return -1; \
        return REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        return *mode != 'r' && verdict(below(path), 1) == FAIL ? NULL : REAL(name)(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)
