/*
 * LD_PRELOAD: counts the calls of the file system on paths under a folder, and fails the n-th, or ends the process in it.
 *
 *   ATTACK_FOLDER  calls on this folder and what is in it are counted
 *   ATTACK_NTH     the call that fails; 0 or nothing: none
 *   ATTACK_LAST    the last one that does: n-th to last (default: the n-th alone)
 *   ATTACK_ERRNO   what it fails with; 0: the process is killed there, in a write after half of its bytes
 *   ATTACK_LOG     a file descriptor, to which each counted call is written as a line: its number, its name, its path
 *
 * The functions that libuv, libvips and Node.js call are wrapped; the C library's own calls of one another are not.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char* folder;
static size_t folderLength;
static long nth, last;
static int failure, logFd = -1;
static atomic_long calls;

__attribute__((constructor)) static void configure(void) {
  folder = getenv("ATTACK_FOLDER");
  folderLength = folder ? strlen(folder) : 0;
  nth = getenv("ATTACK_NTH") ? atol(getenv("ATTACK_NTH")) : 0;
  last = getenv("ATTACK_LAST") ? atol(getenv("ATTACK_LAST")) : nth;
  failure = getenv("ATTACK_ERRNO") ? atoi(getenv("ATTACK_ERRNO")) : 0;
  logFd = getenv("ATTACK_LOG") ? atoi(getenv("ATTACK_LOG")) : -1;
}

static int inFolder(const char* path) {
  return strncmp(path, folder, folderLength) == 0 && (path[folderLength] == '/' || path[folderLength] == '\0');
}

/* The path of what `fd` is open for, by /proc; 0 where it is not in the folder. */
static int pathOfFd(int fd, char* path) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  path[length] = '\0';
  return inFolder(path);
}

/* A relative path begins where `fd` is, or in the working directory. */
static int resolve(int fd, const char* path, char* resolved) {
  if (path[0] == '/') {
    snprintf(resolved, PATH_MAX, "%s", path);
    return inFolder(resolved);
  }
  char base[PATH_MAX];
  if (fd == AT_FDCWD) {
    if (syscall(SYS_getcwd, base, sizeof base) < 0) return 0;
  } else if (!pathOfFd(fd, base)) {
    return 0;
  }
  if (snprintf(resolved, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
  return inFolder(resolved);
}

/* Counts the call. True where it is to fail; errno says how, or is 0 where the process is to end. */
static int fails(const char* name, const char* path) {
  const long call = atomic_fetch_add(&calls, 1) + 1;
  if (logFd >= 0) {
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%ld %s %s\n", call, name, path + folderLength);
    syscall(SYS_write, logFd, line, (size_t)length);
  }
  if (nth == 0 || call < nth || call > last) return 0;
  errno = failure;
  return 1;
}

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

/* For calls that don't write: they fail, or the process ends before them. */
static int refuse(const char* name, const char* path) {
  if (!fails(name, path)) return 0;
  if (errno == 0) die();
  return 1;
}

static int refuseAt(const char* name, int fd, const char* path) {
  char resolved[PATH_MAX];
  return folder && path && resolve(fd, path, resolved) && refuse(name, resolved);
}

static int refuseFd(const char* name, int fd) {
  char path[PATH_MAX];
  return folder && fd != logFd && pathOfFd(fd, path) && refuse(name, path);
}

#define REAL(name) \
  static __typeof__(name)* real; \
  if (!real) real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

#define MODE() \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { \
    va_list arguments; \
    va_start(arguments, flags); \
    mode = va_arg(arguments, mode_t); \
    va_end(arguments); \
  }

#define OPEN(name) \
  int name(const char* path, int flags, ...) { \
    REAL(name); \
    MODE() \
    return refuseAt("open", AT_FDCWD, path) ? -1 : real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int fd, const char* path, int flags, ...) { \
    REAL(name); \
    MODE() \
    return refuseAt("open", fd, path) ? -1 : real(fd, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
  FILE* name(const char* path, const char* mode) { \
    REAL(name); \
    return refuseAt("open", AT_FDCWD, path) ? NULL : real(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

/* Half of the bytes, where the process is to end: what a torn write leaves. */
static int refuseWrite(const char* name, int fd, const void* data, size_t size, off_t offset) {
  char path[PATH_MAX];
  if (!folder || fd == logFd || !pathOfFd(fd, path) || !fails(name, path)) return 0;
  if (errno != 0) return 1;
  if (offset < 0) syscall(SYS_write, fd, data, size / 2);
  else syscall(SYS_pwrite64, fd, data, size / 2, offset);
  die();
  return 1;
}

ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  return refuseWrite("write", fd, data, size, -1) ? -1 : real(fd, data, size);
}

#define PWRITE(name) \
  ssize_t name(int fd, const void* data, size_t size, __typeof__(off_t) offset) { \
    REAL(name); \
    return refuseWrite("write", fd, data, size, offset) ? -1 : real(fd, data, size, offset); \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int fd, const struct iovec* parts, int count) {
  REAL(writev);
  return refuseWrite("write", fd, parts[0].iov_base, parts[0].iov_len, -1) ? -1 : real(fd, parts, count);
}

#define PWRITEV(name) \
  ssize_t name(int fd, const struct iovec* parts, int count, __typeof__(off_t) offset) { \
    REAL(name); \
    return refuseWrite("write", fd, parts[0].iov_base, parts[0].iov_len, offset) ? -1 : real(fd, parts, count, offset); \
  }
PWRITEV(pwritev)
PWRITEV(pwritev64)

/* Calls of a file that is open: the return type, the name, how it is told of, and its arguments after the first. */
#define ON_FD(type, name, kind, parameters, arguments) \
  type name parameters { \
    REAL(name); \
    return refuseFd(kind, fd) ? -1 : real arguments; \
  }
ON_FD(ssize_t, read, "read", (int fd, void* data, size_t size), (fd, data, size))
ON_FD(ssize_t, pread, "read", (int fd, void* data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pread64, "read", (int fd, void* data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, readv, "read", (int fd, const struct iovec* parts, int count), (fd, parts, count))
ON_FD(ssize_t, preadv, "read", (int fd, const struct iovec* parts, int count, off_t at), (fd, parts, count, at))
ON_FD(ssize_t, preadv64, "read", (int fd, const struct iovec* parts, int count, off64_t at), (fd, parts, count, at))
ON_FD(int, fsync, "fsync", (int fd), (fd))
ON_FD(int, fdatasync, "fsync", (int fd), (fd))
ON_FD(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))
ON_FD(int, fchmod, "chmod", (int fd, mode_t mode), (fd, mode))

#define ON_PATH(name, kind, parameters, arguments) \
  int name parameters { \
    REAL(name); \
    return refuseAt(kind, AT_FDCWD, path) ? -1 : real arguments; \
  }
ON_PATH(mkdir, "mkdir", (const char* path, mode_t mode), (path, mode))
ON_PATH(rmdir, "unlink", (const char* path), (path))
ON_PATH(unlink, "unlink", (const char* path), (path))
ON_PATH(chmod, "chmod", (const char* path, mode_t mode), (path, mode))
ON_PATH(rename, "rename", (const char* path, const char* to), (path, to))
ON_PATH(link, "link", (const char* path, const char* to), (path, to))
ON_PATH(symlink, "link", (const char* to, const char* path), (to, path))

int unlinkat(int fd, const char* path, int flags) {
  REAL(unlinkat);
  return refuseAt("unlink", fd, path) ? -1 : real(fd, path, flags);
}

int renameat(int fd, const char* path, int toFd, const char* to) {
  REAL(renameat);
  return refuseAt("rename", fd, path) ? -1 : real(fd, path, toFd, to);
}

DIR* opendir(const char* path) {
  REAL(opendir);
  return refuseAt("open", AT_FDCWD, path) ? NULL : real(path);
}

#define SCANDIR(name, entry) \
  int name(const char* path, struct entry*** names, int (*filter)(const struct entry*), \
           int (*compare)(const struct entry**, const struct entry**)) { \
    REAL(name); \
    return refuseAt("open", AT_FDCWD, path) ? -1 : real(path, names, filter, compare); \
  }
SCANDIR(scandir, dirent)
SCANDIR(scandir64, dirent64)
