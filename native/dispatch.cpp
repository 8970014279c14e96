#include "dispatch.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#else
#include <fstream>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace octuor {

namespace scalar {
extern const Kernels kernels;
}

#if defined(__x86_64__)

namespace avx2 {
extern const Kernels kernels;
}
namespace avxvnni {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512vnni {
extern const Kernels kernels;
}
namespace avx512bf16 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}

namespace {

enum Register { EAX, EBX, ECX, EDX };

struct Leaf {
    uint32_t registers[4] = {};
    Leaf(uint32_t leaf, uint32_t subleaf) {
        uint32_t* r = registers;
        if (!__get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX])) std::memset(r, 0, sizeof registers);
    }
    bool bit(Register which, int n) const { return registers[which] >> n & 1; }
};

// Register state that the operating system saves: bits 1 and 2 for AVX, 5 to 7 for AVX-512.
uint64_t saved_state() {
    if (!Leaf(1, 0).bit(ECX, 27)) return 0;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}
bool saves(uint64_t bits) { return (saved_state() & bits) == bits; }

// AMD's Zen 3 and 4: fetched into L1, weights arrive at half to nine tenths of the pace that L2 gives; on others it is
// the reverse, by a tenth or two.
bool is_family_25() {
    const uint32_t name = Leaf(0, 0).registers[EBX], id = Leaf(1, 0).registers[EAX];
    return name == 0x68747541 && (id >> 8 & 15) + (id >> 20 & 255) == 25;  // "Auth", of AuthenticAMD
}

struct Feature {
    const char* name;
    bool (*present)();
};

// Bits: Intel SDM volume 2A, CPUID.
const Feature features[] = {
    {"sse4.2", [] { return Leaf(1, 0).bit(ECX, 20) && Leaf(1, 0).bit(ECX, 23); }},  // with popcnt
    {"f16c", [] { return Leaf(1, 0).bit(ECX, 29) && saves(0x6); }},
    {"fma", [] { return Leaf(1, 0).bit(ECX, 12) && saves(0x6); }},
    {"avx2", [] { return Leaf(7, 0).bit(EBX, 5) && saves(0x6); }},
    {"avx512f", [] { return Leaf(7, 0).bit(EBX, 16) && saves(0xe6); }},
    {"avx512bw", [] { return Leaf(7, 0).bit(EBX, 30) && saves(0xe6); }},
    {"avx512dq", [] { return Leaf(7, 0).bit(EBX, 17) && saves(0xe6); }},
    {"avx512vl", [] { return Leaf(7, 0).bit(EBX, 31) && saves(0xe6); }},
    {"avx512vnni", [] { return Leaf(7, 0).bit(ECX, 11) && saves(0xe6); }},
    {"avx512vbmi", [] { return Leaf(7, 0).bit(ECX, 1) && saves(0xe6); }},
    {"avx512bf16", [] { return Leaf(7, 1).bit(EAX, 5) && saves(0xe6); }},
    {"avxvnni", [] { return Leaf(7, 1).bit(EAX, 4) && saves(0x6); }},
    {"amx-tile", [] { return Leaf(7, 0).bit(EDX, 24) && saves(0x60000); }},
    {"amx-int8", [] { return Leaf(7, 0).bit(EDX, 25) && saves(0x60000); }},
};

bool has(std::initializer_list<const char*> names) {
    for (const char* name : names) {
        bool found = false;
        for (const Feature& feature : features)
            if (!std::strcmp(feature.name, name)) found = feature.present();
        if (!found) return false;
    }
    return true;
}

// Linux gives the 8 KiB of tile state only to processes that ask; a refusal means that there is none to have.
bool has_matrix_unit() {
#if defined(OCTUOR_EMULATE_AMX)
    return true;
#elif defined(__linux__)
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, and the state's bit in XCR0
    static const bool found = has({"amx-tile", "amx-int8"}) && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return found;
#else
    return false;
#endif
}

}  // namespace

const bool FETCHES_FAR = is_family_25();

const std::vector<Implementation>& implementations() {
    // The features are what CMakeLists.txt compiles each with.
    static const std::vector<Implementation> all = {
        {"scalar", [] { return has({"sse4.2"}); }, &scalar::kernels},
        {"avx2", [] { return has({"sse4.2", "avx2", "fma", "f16c"}); }, &avx2::kernels},
        {"avxvnni", [] { return has({"sse4.2", "avx2", "fma", "f16c", "avxvnni"}); }, &avxvnni::kernels},
        {"avx512", [] { return has({"sse4.2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}); },
         &avx512::kernels},
        {"avx512vnni",
         [] {
             return has({"sse4.2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"});
         },
         &avx512vnni::kernels},
        {"avx512bf16",
         [] {
             return has({"sse4.2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni",
                         "avx512vbmi", "avx512bf16"});
         },
         &avx512bf16::kernels},
        {"amx",
         [] {
             return has({"sse4.2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni",
                         "avx512vbmi", "avx512bf16"}) &&
                    has_matrix_unit();
         },
         &amx::kernels},
    };
    return all;
}

std::string cpu_name() {
    char name[49] = {};
    for (uint32_t i = 0; i < 3; i++) {
        Leaf part(0x80000002 + i, 0);
        std::memcpy(name + 16 * i, part.registers, 16);
    }
    std::string text = name;
    const size_t last = text.find_last_not_of(' ');
    return last == std::string::npos ? "unknown" : text.substr(0, last + 1);
}

std::vector<std::string> cpu_features() {
    std::vector<std::string> found;
    for (const Feature& feature : features)
        if (feature.present()) found.emplace_back(feature.name);
    return found;
}

#else

const bool FETCHES_FAR = false;

#if defined(__aarch64__)

namespace neon {
extern const Kernels kernels;
}
namespace dotprod {
extern const Kernels kernels;
}
namespace i8mm {
extern const Kernels kernels;
}

namespace {

// Bits: Linux's arch/arm64/include/uapi/asm/hwcap.h; older copies of it lack the second.
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }

}  // namespace

const std::vector<Implementation>& implementations() {
    static const std::vector<Implementation> all = {
        {"scalar", [] { return true; }, &scalar::kernels},
        {"neon", [] { return true; }, &neon::kernels},  // part of every aarch64
        {"dotprod", has_dotprod, &dotprod::kernels},
        {"i8mm", [] { return has_dotprod() && has_i8mm(); }, &i8mm::kernels},
    };
    return all;
}

// Named as /proc/cpuinfo has them.
std::vector<std::string> cpu_features() {
    std::vector<std::string> found = {"asimd"};
    if (has_dotprod()) found.emplace_back("asimddp");
    if (has_i8mm()) found.emplace_back("i8mm");
    return found;
}

#else

const std::vector<Implementation>& implementations() {
    static const std::vector<Implementation> all = {{"scalar", [] { return true; }, &scalar::kernels}};
    return all;
}

std::vector<std::string> cpu_features() { return {}; }

#endif

// The model's name where Linux knows it, else the numbers that Arm processors have for one.
std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    std::string numbers;
    for (std::string line; std::getline(file, line);) {
        if (line.find(": ") == std::string::npos) continue;
        const std::string value = line.substr(line.find(": ") + 2);
        if (line.rfind("model name", 0) == 0) return value;
        if (line.rfind("CPU implementer", 0) == 0) numbers = "implementer " + value;
        if (line.rfind("CPU part", 0) == 0) return numbers + " part " + value;
    }
    return "unknown";
}

#endif

}  // namespace octuor
