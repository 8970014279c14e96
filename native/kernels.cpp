// The kernels of one instruction set. CMake compiles this file once for each, with OCTUOR_ISA naming the namespace
// and that set's own flags. Nothing here may use templates or inline functions of the standard library: the linker
// keeps one copy of those for all files, and it could be one that the machine cannot run.
#include "kernels.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#include "vec_avx512.h"
#elif defined(__AVX2__)
#include "vec_avx2.h"
#elif defined(OCTUOR_NEON)
#include "vec_neon.h"
#else
#include "vec_scalar.h"
#endif

#include "formats.h"
#include "formats_gguf.h"
// The order matters: each uses what those before it have.
#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels_i8mm.h"
#else
#include "kernels_amx.h"
#endif
#include "kernels_inputs.h"
#include "kernels_blocks.h"
#include "formats_turned.h"
#include "kernels_turned.h"
#include "formats_rows.h"
#include "kernels_linear.h"
#include "kernels_norm.h"
#include "kernels_attention_blocks.h"
#include "kernels_attention_few.h"
#include "kernels_attention.h"
#include "kernels_moe.h"
#include "kernels_low_rank.h"
#include "kernels_quantize.h"
#include "kernels_feedback.h"
#include "kernels_probe.h"

namespace octuor::OCTUOR_ISA {

extern const Kernels kernels;
const Kernels kernels = {embed, rms_norm, linear, rope, attention, route, moe, moe_sum, low_rank, swiglu_rows, quantize,
                         round_block, dequantize, &int8_peak, &f32_peak, &bf16_peak};

}  // namespace octuor::OCTUOR_ISA
