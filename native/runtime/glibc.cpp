// What the addon takes of glibc, by the versions that glibc 2.28 has, whichever it is built with: prebuilt, it loads
// wherever Node.js 20 does, and `npm run check:package` fails on a symbol that is newer. libstdc++ is part of the
// addon, so that its calls come here as well. Its unwinder (libgcc_s) stays the system's: the static one asks for
// glibc 2.35.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/random.h>

#if defined(__x86_64__) && defined(__GLIBC__)
// Defines `name` within the addon: a call of the version that glibc has had since 2.2.5, and still has.
#define FORWARD(result, name, parameters, arguments)                                              \
  extern "C" result glibc_##name parameters;                                                      \
  __asm__(".symver glibc_" #name ", " #name "@GLIBC_2.2.5");                                      \
  extern "C" __attribute__((visibility("hidden"))) result addon_##name parameters __asm__(#name); \
  extern "C" result addon_##name parameters { return glibc_##name arguments; }

FORWARD(double, exp, (double x), (x))
FORWARD(double, log, (double x), (x))

FORWARD(void*, dlopen, (const char* file, int mode), (file, mode))
FORWARD(void*, dlsym, (void* library, const char* name), (library, name))
FORWARD(char*, dlerror, (), ())
FORWARD(int, dladdr, (const void* address, Dl_info* info), (address, info))

FORWARD(int, pthread_create,
        (pthread_t * thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument),
        (thread, attributes, run, argument))
FORWARD(int, pthread_join, (pthread_t thread, void** result), (thread, result))
FORWARD(int, pthread_detach, (pthread_t thread), (thread))
FORWARD(int, pthread_once, (pthread_once_t * once, void (*run)()), (once, run))
FORWARD(int, pthread_key_create, (pthread_key_t * key, void (*end)(void*)), (key, end))
FORWARD(int, pthread_key_delete, (pthread_key_t key), (key))
FORWARD(void*, pthread_getspecific, (pthread_key_t key), (key))
FORWARD(int, pthread_setspecific, (pthread_key_t key, const void* value), (key, value))

// Until glibc 2.33 fstat was a macro; 1 is the version of x86-64's struct stat.
extern "C" int glibc_fxstat(int version, int file, void* status);
__asm__(".symver glibc_fxstat, __fxstat@GLIBC_2.2.5");
extern "C" __attribute__((visibility("hidden"))) int addon_fstat(int file, void* status) __asm__("fstat");
extern "C" int addon_fstat(int file, void* status) { return glibc_fxstat(1, file, status); }

// Of libstdc++: whether counters of references may do without atomic operations. Node.js has threads from the start.
extern "C" {
__attribute__((visibility("hidden"))) extern char addon_single_threaded __asm__("__libc_single_threaded");
char addon_single_threaded = 0;

// Of libstdc++'s random_device, which is not used here, but lies beside what is.
__attribute__((visibility("hidden"))) unsigned addon_random() __asm__("arc4random");
unsigned addon_random() {
  unsigned word;
  if (getrandom(&word, sizeof word, 0) != sizeof word) __builtin_trap();
  return word;
}
}
#endif
