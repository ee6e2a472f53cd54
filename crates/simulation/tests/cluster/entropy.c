/* The operating system's randomness, for a process that is to do the same each time: loaded before the C library's by replay.rs. tokio takes from it
 * in which order it wakes those who wait for one thing, and the standard library how maps are ordered. Each thread gets numbers of its own, so that
 * it does not matter which asks first. Nothing here may ever be in a process that guards anything. */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

static __thread uint64_t state;

ssize_t getrandom(void *out, size_t length, unsigned int flags) {
    unsigned char *bytes = out;
    (void)flags;
    for (size_t at = 0; at < length; at++) {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        bytes[at] = (unsigned char)(z ^ (z >> 31));
    }
    return (ssize_t)length;
}
