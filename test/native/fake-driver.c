// A driver that is not good enough: libcuda.so.1 for the tests of what the CUDA library says then. FAKE_DRIVER is 'old',
// 'no-device' or 'broken'.
#include <stdlib.h>
#include <string.h>

static int is(const char* mode) {
  const char* value = getenv("FAKE_DRIVER");
  return value && strcmp(value, mode) == 0;
}

int cuDriverGetVersion(int* version) {
  *version = is("old") ? 12020 : 99000;
  return 0;
}

int cuInit(unsigned flags) {
  (void)flags;
  return is("no-device") ? 100 : is("broken") ? 802 : 0;  // CUDA_ERROR_NO_DEVICE, CUDA_ERROR_SYSTEM_NOT_READY
}

static int notThere(void) { return 500; }  // CUDA_ERROR_NOT_FOUND

int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, int* result) {
  (void)version;
  (void)flags;
  if (result) *result = 0;
  *function = strcmp(name, "cuInit") == 0               ? (void*)cuInit
              : strcmp(name, "cuDriverGetVersion") == 0 ? (void*)cuDriverGetVersion
              : strcmp(name, "cuGetProcAddress") == 0   ? (void*)cuGetProcAddress_v2
                                                        : (void*)notThere;
  return 0;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, 0);
}
