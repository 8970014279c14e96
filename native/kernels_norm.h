// Functions of single numbers and single rows: e^x, 2^x, rms_norm, rope.
#pragma once

namespace octuor::OCTUOR_ISA {

// e^x within 2 ulp or so; 0 below -87, and no larger than e^88.
static inline F32 exp(F32 x) {
    constexpr float LOWEST = -87.3f;
    F32 kept = min(max(x, set1(LOWEST)), set1(88.0f));
    F32 n = round(mul(kept, set1(1.44269504f)));
    // ln 2 in two parts, the first with few bits so that n times it is exact (Cody & Waite)
    F32 r = fnma(n, set1(-2.12194440e-4f), fnma(n, set1(0.693359375f), kept));
    F32 p = set1(1.98756912e-4f);  // minimax coefficients of Cephes expf
    p = fma(p, r, set1(1.39819995e-3f));
    p = fma(p, r, set1(8.33345177e-3f));
    p = fma(p, r, set1(4.16657962e-2f));
    p = fma(p, r, set1(1.66666654e-1f));
    p = fma(p, r, set1(0.5f));
    F32 y = add(fma(p, mul(r, r), r), set1(1.0f));
    return zero_below(mul(y, power_of_2(n)), x, LOWEST);
}

// 2^x for x of at most 0, within 2 ulp or so; 0 below -126.
static inline F32 exp2(F32 x) {
    constexpr float LOWEST = -126.0f;
    F32 kept = max(x, set1(LOWEST));
    F32 n = round(kept);
    F32 r = sub(kept, n);
    F32 p = set1(1.535336188e-4f);  // coefficients of Cephes exp2f
    p = fma(p, r, set1(1.339887440e-3f));
    p = fma(p, r, set1(9.618437357e-3f));
    p = fma(p, r, set1(5.550332471e-2f));
    p = fma(p, r, set1(2.402264791e-1f));
    p = fma(p, r, set1(6.931472028e-1f));
    p = fma(p, r, set1(1.0f));
    return zero_below(mul(p, power_of_2(n)), x, LOWEST);
}

static void rms_norm(Team* team, const float* x, const float* weight, int64_t n_tokens, int64_t dim, float eps,
                     float* out) {
    parallel(team, n_tokens, n_tokens * dim < SMALL_WORK, [=](int64_t t, int) {
        const float* row = x + t * dim;
        float* to = out + t * dim;
        const int64_t whole = dim / W * W;
        F32 squares[2] = {set1(0.0f), set1(0.0f)};
        int64_t i = 0;
        for (; i + 2 * W <= dim; i += 2 * W)
            for (int j = 0; j < 2; j++) squares[j] = fma(load(row + i + j * W), load(row + i + j * W), squares[j]);
        for (; i < dim; i += W) {
            F32 part = i < whole ? load(row + i) : load_n(row + i, dim - i);
            squares[0] = fma(part, part, squares[0]);
        }
        const F32 scale = set1(1.0f / sqrtf(sum(add(squares[0], squares[1])) / float(dim) + eps));
        for (i = 0; i < whole; i += W) store(to + i, mul(mul(load(row + i), scale), load(weight + i)));
        if (i < dim) {
            F32 part = mul(mul(load_n(row + i, dim - i), scale), load_n(weight + i, dim - i));
            store_n(to + i, part, dim - i);
        }
    });
}

static void rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads,
                 int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    for (int64_t t = 0; t < n_tokens; t++, cos += half, sin += half)
        for (int64_t h = 0; h < n_heads; h++, x += head_dim, out += head_dim) {
            int64_t i = 0;
            for (; i + W <= half; i += W) {
                F32 a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
                store(out + i, fnma(b, s, mul(a, c)));
                store(out + half + i, fma(a, s, mul(b, c)));
            }
            for (; i < half; i++) {
                out[i] = x[i] * cos[i] - x[half + i] * sin[i];
                out[half + i] = x[half + i] * cos[i] + x[i] * sin[i];
            }
        }
}

}  // namespace octuor::OCTUOR_ISA
