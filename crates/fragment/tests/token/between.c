// A PKCS#11 module that passes every call on to another one, and does to it what a file says: a token that is slow, fails, or gives wrong answers.
// MODULE is the module, MODE the file.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// PKCS#11 v2.40, appendix: the list of functions in its order, and the numbers used here.
enum { FUNCTIONS = 68, GET_ATTRIBUTE_VALUE = 24, DERIVE_KEY = 62 };
enum { CKA_VALUE = 0x11, CKR_OK = 0, CKR_DEVICE_ERROR = 0x30 };

typedef unsigned long number;
struct attribute { number type; void *value; number length; };
struct list { unsigned char version[2]; void *function[FUNCTIONS]; };
typedef number derive_key(number, void *, number, struct attribute *, number, number *);
typedef number get_attribute_value(number, number, struct attribute *, number);

static struct list *real, ours;
static unsigned char kept[32];
static int has_kept;

static int is(const char *mode) {
    char said[32] = "";
    FILE *file = fopen(MODE, "r");
    if (file) {
        if (!fgets(said, sizeof said, file)) said[0] = 0;
        fclose(file);
    }
    return strcmp(said, mode) == 0;
}

static number derive(number session, void *mechanism, number key, struct attribute *template, number count, number *made) {
    if (is("slow")) usleep(300 * 1000);
    if (is("failed")) return CKR_DEVICE_ERROR;
    return ((derive_key *)real->function[DERIVE_KEY])(session, mechanism, key, template, count, made);
}

// Asked twice: without a place for the length, and with one.
static void tamper(struct attribute *value) {
    if (is("long")) value->length = 64;
    if (!value->value) return;
    if (is("long")) memset(value->value, 7, 64);
    if (is("short")) value->length = 31;
    if (is("nonsense")) memset(value->value, 0xff, value->length);
    if (value->length != sizeof kept) return;
    if (is("stale") && has_kept) memcpy(value->value, kept, sizeof kept);
    else if (!has_kept) has_kept = 1, memcpy(kept, value->value, sizeof kept);
}

static number get(number session, number object, struct attribute *template, number count) {
    number done = ((get_attribute_value *)real->function[GET_ATTRIBUTE_VALUE])(session, object, template, count);
    for (number i = 0; done == CKR_OK && i < count; i++)
        if (template[i].type == CKA_VALUE) tamper(&template[i]);
    return done;
}

number C_GetFunctionList(struct list **list) {
    void *module = dlopen(MODULE, RTLD_NOW);
    number (*get_list)(struct list **) = module ? (number (*)(struct list **))dlsym(module, "C_GetFunctionList") : 0;
    if (!get_list || get_list(&real) != CKR_OK) return CKR_DEVICE_ERROR;
    ours = *real;
    ours.function[DERIVE_KEY] = derive;
    ours.function[GET_ATTRIBUTE_VALUE] = get;
    *list = &ours;
    return CKR_OK;
}
