/*
 * Stands between a test program and the storage calls of its libc, and makes them misbehave.
 * Only what is below FAULT_DIR is touched; everything else goes through as it is.
 *
 *   FAULT_DIR      the directory (an absolute path)
 *   FAULT_MODE     kill | fail | hang | record
 *   FAULT_LOG      what happened is appended here, one line a call (record: see below)
 *   FAULT_AT       kill, fail: the number of the call, from 1; 0 lets all pass and counts
 *   FAULT_HALF     kill: a write at that place is half done first
 *                  fail: a write there is half done, and the next one on that file fails
 *   FAULT_HANG     hang: while this file exists, with a kind's letter behind a dot, calls of that
 *                  kind wait, those from FAULT_AT on
 *   FAULT_ERRNO    fail: the error; calls that cannot fail in this way are not counted
 *                  hang: what has waited fails with it, if it is set
 *   FAULT_ONLY     the kinds of call that count, by letter (see below); default: all
 *   FAULT_PERSIST  fail: all calls from that one on, until the file FAULT_CLEAR exists
 *   FAULT_SLOW_US  record: how long a sync takes
 *   FAULT_CLOCK    in any mode: while this file exists, the wall clock is an hour behind
 *
 * Kinds: o open, d opendir, w write, s sync of a file, y sync of a directory, t truncate,
 * r rename, u unlink, m mkdir, g read.
 *
 * A sync that fails leaves what was not synced as zeros: the kernel has marked the pages clean
 * and may forget them. A second sync of that log file is told as "again" in FAULT_LOG.
 *
 * Lines of a recording, paths relative to FAULT_DIR:
 *
 *   O fd created path    W fd offset length (then the bytes and a newline)    T fd length
 *   B thread fd          a sync begins: it covers what was written before
 *   E thread             it ends well
 *   R path path          U path          M path
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum mode { OFF, KILL, FAIL, HANG, RECORD };
enum verdict { GO, REFUSE, HALVE };

#define MOST_FDS 4096
#define MOST_FILES 4096

static enum mode mode = OFF;
static const char *dir, *only, *clear_path, *clock_path, *hang_path;
static size_t dir_len;
static int log_fd = -1, error_number, half, persist, slow_us;
static long at, calls;
static int firing;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static struct open_file {
    char kind; /* 0 not ours, 'f' file, 'd' directory */
    char fail_next_write;
    char path[256];
} files[MOST_FDS];

/* By inode: how much of it is synced, and whether a sync has failed. */
static struct {
    ino_t inode;
    off_t synced;
    int failed;
} inodes[MOST_FILES];

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULT_MODE"), *log = getenv("FAULT_LOG");
    dir = getenv("FAULT_DIR");
    clock_path = getenv("FAULT_CLOCK");
    if (!text || !dir)
        return;
    dir_len = strlen(dir);
    only = getenv("FAULT_ONLY");
    clear_path = getenv("FAULT_CLEAR");
    hang_path = getenv("FAULT_HANG");
    at = number("FAULT_AT");
    half = (int)number("FAULT_HALF");
    persist = (int)number("FAULT_PERSIST");
    error_number = (int)number("FAULT_ERRNO");
    slow_us = (int)number("FAULT_SLOW_US");
    if (log)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log,
                              O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    mode = !strcmp(text, "kill")   ? KILL
           : !strcmp(text, "fail") ? FAIL
           : !strcmp(text, "hang") ? HANG
                                   : RECORD;
}

static void tell(const void *data, size_t length, const char *format, ...) {
    char line[1200];
    struct iovec parts[3] = {{line, 0}, {(void *)data, length}, {"\n", data ? 1 : 0}};
    va_list arguments;
    if (log_fd < 0)
        return;
    va_start(arguments, format);
    parts[0].iov_len = (size_t)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (syscall(SYS_writev, log_fd, parts, 3) < 0)
        abort();
}

/* The path relative to FAULT_DIR, or NULL if it is not below. */
static const char *below(const char *path) {
    if (mode == OFF || !path || strncmp(path, dir, dir_len))
        return NULL;
    if (path[dir_len] == 0)
        return ".";
    return path[dir_len] == '/' ? path + dir_len + 1 : NULL;
}

static struct open_file *ours(int fd) {
    return mode != OFF && fd >= 0 && fd < MOST_FDS && files[fd].kind ? &files[fd] : NULL;
}

/* Can a call of this kind fail with the error at all? */
static int can_fail(char kind, int changes) {
    switch (error_number) {
    case EIO:
        return 1;
    case EMFILE:
        return kind == 'o' || kind == 'd';
    case EFBIG:
        return kind == 'w';
    case ENOSPC:
    case EDQUOT:
        return kind == 'w' || kind == 's' || kind == 'm' || kind == 'r' || (kind == 'o' && changes);
    case EROFS:
        return kind == 'w' || kind == 't' || kind == 'm' || kind == 'r' || kind == 'u' ||
               (kind == 'o' && changes);
    default:
        return 1;
    }
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Lets a call wait for as long as those of its kind hang. */
static enum verdict hang(char kind, const char *path) {
    char file[512];
    long mine;
    snprintf(file, sizeof file, "%s.%c", hang_path ? hang_path : "", kind);
    pthread_mutex_lock(&one);
    mine = ++calls;
    pthread_mutex_unlock(&one);
    if (mine < at || syscall(SYS_access, file, F_OK))
        return GO;
    tell(NULL, 0, "hangs %ld %c %s\n", mine, kind, path);
    while (syscall(SYS_access, file, F_OK) == 0)
        usleep(1000);
    return error_number ? REFUSE : GO;
}

/* Counts a call and says what becomes of it. */
static enum verdict judge(char kind, int changes, const char *path) {
    enum verdict verdict = GO;
    long mine;
    if (mode == RECORD || (only && !strchr(only, kind)) || (mode == FAIL && !can_fail(kind, changes)))
        return GO;
    if (mode == HANG)
        return hang(kind, path);
    if (mode == KILL && (kind == 'g' || kind == 'd'))
        return GO; /* nothing changes here */
    pthread_mutex_lock(&one);
    mine = ++calls;
    if (persist && firing && clear_path && syscall(SYS_access, clear_path, F_OK) == 0)
        persist = firing = 0;
    if (at && (mine == at || firing)) {
        firing = persist;
        if (mode == KILL && !(half && kind == 'w'))
            die();
        verdict = half && kind == 'w' ? HALVE : REFUSE;
    }
    if (!at || verdict != GO)
        tell(NULL, 0, "%s %ld %c %s\n", at ? "fired" : "call", mine, kind, path);
    pthread_mutex_unlock(&one);
    return verdict;
}

static int refuse(void) {
    errno = error_number;
    return -1;
}

/* ---- names ---- */

/* What is known of the inode behind a descriptor; called with the mutex held. */
static int known(int fd, struct stat *stat) {
    int i;
    if (fstat(fd, stat))
        abort();
    for (i = 0; i < MOST_FILES && inodes[i].inode; i++)
        if (inodes[i].inode == stat->st_ino)
            return i;
    if (i == MOST_FILES)
        abort();
    inodes[i].inode = stat->st_ino;
    inodes[i].synced = stat->st_size;
    return i;
}

static int opening(int dirfd, const char *path, int flags, mode_t bits) {
    const char *name = dirfd == AT_FDCWD || (path && *path == '/') ? below(path) : NULL;
    int fd, existed = 0, i;
    struct stat stat;
    if (!name)
        return (int)syscall(SYS_openat, dirfd, path, flags, bits);
    if (judge('o', (flags & (O_CREAT | O_ACCMODE)) != 0, name) == REFUSE)
        return refuse();
    pthread_mutex_lock(&one);
    if (flags & O_CREAT)
        existed = syscall(SYS_access, path, F_OK) == 0;
    fd = (int)syscall(SYS_openat, dirfd, path, flags, bits);
    if (fd >= 0 && fd < MOST_FDS && fstat(fd, &stat) == 0) {
        files[fd].kind = S_ISDIR(stat.st_mode) ? 'd' : 'f';
        files[fd].fail_next_write = 0;
        snprintf(files[fd].path, sizeof files[fd].path, "%s", name);
        /* Only what was written while we look on can be unsynced. */
        if ((mode == FAIL || mode == HANG) && files[fd].kind == 'f') {
            i = known(fd, &stat);
            if ((flags & O_CREAT) && !existed)
                inodes[i].synced = inodes[i].failed = 0;
        }
        if (mode == RECORD)
            tell(NULL, 0, "O %d %d %s\n", fd, (flags & O_CREAT) && !existed, name);
    }
    pthread_mutex_unlock(&one);
    return fd;
}

#define MODE_BITS(bits)                                                                            \
    mode_t bits = 0;                                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        bits = va_arg(arguments, mode_t);                                                          \
        va_end(arguments);                                                                         \
    }

int open(const char *path, int flags, ...) {
    MODE_BITS(bits)
    return opening(AT_FDCWD, path, flags, bits);
}

int open64(const char *path, int flags, ...) {
    MODE_BITS(bits)
    return opening(AT_FDCWD, path, flags, bits);
}

int openat(int dirfd, const char *path, int flags, ...) {
    MODE_BITS(bits)
    return opening(dirfd, path, flags, bits);
}

int openat64(int dirfd, const char *path, int flags, ...) {
    MODE_BITS(bits)
    return opening(dirfd, path, flags, bits);
}

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    const char *name = below(path);
    if (!real)
        real = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    if (name && judge('d', 0, name) == REFUSE) {
        errno = error_number;
        return NULL;
    }
    return real(path);
}

int close(int fd) {
    int result;
    if (!ours(fd))
        return (int)syscall(SYS_close, fd);
    pthread_mutex_lock(&one);
    files[fd].kind = 0;
    result = (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&one);
    return result;
}

int rename(const char *from, const char *to) {
    const char *name = below(from);
    int result;
    if (name && judge('r', 1, name) == REFUSE)
        return refuse();
    pthread_mutex_lock(&one);
    result = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (result == 0 && name && mode == RECORD)
        tell(NULL, 0, "R %s %s\n", name, below(to));
    pthread_mutex_unlock(&one);
    return result;
}

int unlink(const char *path) {
    const char *name = below(path);
    int result;
    if (name && judge('u', 1, name) == REFUSE)
        return refuse();
    pthread_mutex_lock(&one);
    result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0 && name && mode == RECORD)
        tell(NULL, 0, "U %s\n", name);
    pthread_mutex_unlock(&one);
    return result;
}

int mkdir(const char *path, mode_t bits) {
    const char *name = below(path);
    int result;
    if (name && judge('m', 1, name) == REFUSE)
        return refuse();
    pthread_mutex_lock(&one);
    result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, bits);
    if (result == 0 && name && mode == RECORD)
        tell(NULL, 0, "M %s\n", name);
    pthread_mutex_unlock(&one);
    return result;
}

/* ---- content ---- */

static ssize_t raw_write(int fd, const void *data, size_t length) {
    return syscall(SYS_write, fd, data, length);
}

ssize_t write(int fd, const void *data, size_t length) {
    struct open_file *file = ours(fd);
    enum verdict verdict;
    ssize_t written;
    if (!file)
        return raw_write(fd, data, length);
    if (file->fail_next_write) {
        file->fail_next_write = 0;
        return refuse();
    }
    verdict = judge('w', 1, file->path);
    if (verdict == REFUSE)
        return refuse();
    if (verdict == HALVE) {
        written = raw_write(fd, data, length > 1 ? length / 2 : length);
        if (mode == KILL)
            die();
        file->fail_next_write = error_number != 0;
        return written;
    }
    pthread_mutex_lock(&one);
    written = raw_write(fd, data, length);
    if (written > 0 && mode == RECORD)
        tell(data, (size_t)written, "W %d %ld %zd\n", fd,
             (long)syscall(SYS_lseek, fd, 0, SEEK_CUR) - (long)written, written);
    pthread_mutex_unlock(&one);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!ours(fd))
        return syscall(SYS_writev, fd, parts, count);
    /* A short write is always allowed; whoever called writes the rest. */
    while (count > 1 && parts->iov_len == 0)
        parts++, count--;
    return write(fd, parts->iov_base, parts->iov_len);
}

ssize_t read(int fd, void *data, size_t length) {
    struct open_file *file = ours(fd);
    if (file && file->kind == 'f' && judge('g', 0, file->path) == REFUSE)
        return refuse();
    return syscall(SYS_read, fd, data, length);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    struct open_file *file = ours(fd);
    if (file && file->kind == 'f' && judge('g', 0, file->path) == REFUSE)
        return refuse();
    return syscall(SYS_pread64, fd, data, length, offset);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    return pread64(fd, data, length, offset);
}

int ftruncate64(int fd, off64_t length) {
    struct open_file *file = ours(fd);
    int result;
    if (file && judge('t', 1, file->path) == REFUSE)
        return refuse();
    pthread_mutex_lock(&one);
    result = (int)syscall(SYS_ftruncate, fd, length);
    if (file && result == 0 && mode == RECORD)
        tell(NULL, 0, "T %d %ld\n", fd, (long)length);
    pthread_mutex_unlock(&one);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* A sync that failed: what was not synced is lost. */
static void forget_unsynced(int fd) {
    struct stat stat;
    char path[64], zeros[4096] = {0};
    int i, writable;
    pthread_mutex_lock(&one);
    i = known(fd, &stat);
    inodes[i].failed = 1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    writable = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    while (writable >= 0 && inodes[i].synced < stat.st_size) {
        size_t n = (size_t)(stat.st_size - inodes[i].synced);
        n = n < sizeof zeros ? n : sizeof zeros;
        if (syscall(SYS_pwrite64, writable, zeros, n, inodes[i].synced) < 0)
            abort();
        inodes[i].synced += (off_t)n;
    }
    if (writable >= 0)
        syscall(SYS_close, writable);
    pthread_mutex_unlock(&one);
}

static int syncing(int fd, long call) {
    struct open_file *file = ours(fd);
    struct stat stat;
    int result, i, thread = (int)syscall(SYS_gettid);
    if (!file)
        return (int)syscall(call, fd);
    if ((mode == FAIL || mode == HANG) && file->kind == 'f' && strstr(file->path, ".jsonl")) {
        pthread_mutex_lock(&one);
        if (inodes[known(fd, &stat)].failed)
            tell(NULL, 0, "again %s\n", file->path);
        pthread_mutex_unlock(&one);
    }
    if (judge(file->kind == 'd' ? 'y' : 's', 1, file->path) == REFUSE) {
        if (file->kind == 'f')
            forget_unsynced(fd);
        return refuse();
    }
    if (mode == RECORD) {
        tell(NULL, 0, "B %d %d\n", thread, fd);
        if (slow_us)
            usleep((useconds_t)slow_us);
    }
    result = (int)syscall(call, fd);
    pthread_mutex_lock(&one);
    if (result == 0 && mode == RECORD)
        tell(NULL, 0, "E %d\n", thread);
    if (result == 0 && (mode == FAIL || mode == HANG) && file->kind == 'f') {
        i = known(fd, &stat);
        inodes[i].synced = stat.st_size;
    }
    pthread_mutex_unlock(&one);
    return result;
}

int fsync(int fd) { return syncing(fd, SYS_fsync); }

int fdatasync(int fd) { return syncing(fd, SYS_fdatasync); }

/* ---- time ---- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && clock_path &&
        syscall(SYS_access, clock_path, F_OK) == 0)
        now->tv_sec -= 3600;
    return result;
}
