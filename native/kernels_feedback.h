// Rounding 256 inputs with error feedback: what quant/feedback.py's round_block defines.
//
// SHAPES      targets, weights [out, 256]; spread [256, 256], of which the part above the diagonal is read; costs [256]
// DEFINITION  for each group of 16 inputs in turn: choose s for its targets as they are by now; then for j in the group:
//               q[j] = the nearest to targets[j];  error[j] = weights[j] - D s q[j]
//               targets[k] += error[j] spread[j][k] for k > j
//             all this for some D near the one that a search of the targets gives; the D of least loss is kept
// A vector holds one input of W rows, so no sum runs across lanes and every lane is a row by itself.
#pragma once

namespace octuor::OCTUOR_ISA {

// What a group's targets and 256 inputs' errors are made of, the same for all rows.
struct Feedback {
    const float* spread;
    const float* costs;           // by input: how much the squared error counts that a target's rounding makes
    const float* costs_by_place;  // as TileRow's importance
};

// W rows of a tile, by input.
struct Lanes {
    alignas(64) float targets[INPUTS][W];
    alignas(64) float weights[INPUTS][W];  // errors, once rounded
    alignas(64) float codes[INPUTS][W];
    alignas(64) float scales[GROUPS][W];
};

struct NearestByte {
    F32 inverse;
    NearestByte(F32, F32 scale) : inverse(reciprocals(scale)) {}
    F32 of(F32 weights) const { return min(max(round(mul(weights, inverse)), set1(-127.0f)), set1(127.0f)); }
};
template <class Tile>
struct NearestOf {
    using type = Nearest<Tile>;
};
template <>
struct NearestOf<Q8> {
    using type = NearestByte;
};

static F32 choose_scale(Q8, const float (*)[W], const float*, F32) { return set1(1.0f); }

// Steps of a bfloat16 from the D that the search found: which of them leaves least only rounding itself can say.
static const int* steps_of(Q8, int* n) {
    static const int steps[] = {0, 1, 2, 3, 4, 5, 6, -1};
    return *n = 8, steps;
}
template <class Tile>
static const int* steps_of(Tile, int* n) {
    static const int steps[] = {0, 3, -3};
    return *n = 3, steps;
}
// 0 and the least numbers stay what they are.
static inline float stepped(float d, int steps) {
    return d < 1e-30f ? d : widen(bf16{uint16_t(int(float_bits(d) >> 16) + steps)});
}

// The s of each lane that loses least on a group's 16 weights under d.
template <class Tile>
static F32 choose_scale(Tile, const float (*weights)[W], const float* costs, F32 d) {
    F32 least_error = set1(__builtin_inff()), best = set1(0.0f);
    for (int size = 0; size <= Tile::S_MAX; size++)
        for (int side = -1; side <= 1; side += 2) {
            const F32 s = set1(float(side * size)), scale = mul(s, d);
            const Nearest<Tile> nearest(s, scale);
            F32 sum = set1(0.0f);
            for (int64_t i = 0; i < GROUP; i++) {
                const F32 w = load(weights[i]), off = fnma(nearest.of(w), scale, w);
                sum = fma(mul(off, set1(costs[i])), off, sum);
            }
            best = where_less(sum, least_error, s, best);
            least_error = min(sum, least_error);
        }
    return best;
}

template <class Tile>
static F32 round_lanes(Tile, Lanes* lanes, const Feedback& x, F32 d) {
    float(*targets)[W] = lanes->targets;
    F32 loss = set1(0.0f);
    for (int64_t start = 0; start < INPUTS; start += GROUP) {
        const int64_t end = start + GROUP;
        const F32 s = choose_scale(Tile(), targets + start, x.costs + start, d), scale = mul(s, d);
        store(lanes->scales[start / GROUP], s);
        const typename NearestOf<Tile>::type nearest(s, scale);
        for (int64_t j = start; j < end; j++) {
            const F32 target = load(targets[j]), code = nearest.of(target), off = fnma(code, scale, target);
            const F32 error = fnma(code, scale, load(lanes->weights[j]));
            loss = fma(mul(off, set1(x.costs[j])), off, loss);
            store(lanes->codes[j], code);
            store(lanes->weights[j], error);
            const float* spread = x.spread + j * INPUTS;
            for (int64_t k = j + 1; k < end; k++) store(targets[k], fma(error, set1(spread[k]), load(targets[k])));
        }
        for (int64_t k = end; k < INPUTS; k++) {
            F32 target = load(targets[k]);
            for (int64_t j = start; j < end; j++)
                target = fma(load(lanes->weights[j]), set1(x.spread[j * INPUTS + k]), target);
            store(targets[k], target);
        }
    }
    return loss;
}

// W rows from first on, of n_rows that share a tile; those beyond are zeros.
template <class Tile>
static void round_rows(Tile, const RoundCall& call, int64_t tile_row, int64_t first, const Feedback& x, uint8_t* tile) {
    Lanes lanes, begun;
    TileRow rows[W] = {};
    alignas(64) float d[W], tried[W], loss[W], least_loss[W], target[INPUTS];
    for (int64_t r = 0; r < W; r++) {
        const int64_t row = tile_row + first + r;
        for (int64_t j = 0; j < INPUTS; j++) {
            target[j] = row < call.out ? call.targets[row * INPUTS + j] : 0.0f;
            begun.targets[j][r] = target[j];
            begun.weights[j][r] = row < call.out ? call.weights[row * INPUTS + j] : 0.0f;
        }
        rows[r].weights = target, rows[r].importance = x.costs_by_place;
        search<Search<true, true>>(Tile(), &rows[r]);
        d[r] = rows[r].d;
        least_loss[r] = __builtin_inff();
    }
    int n_steps;
    const int* steps = steps_of(Tile(), &n_steps);
    for (int i = 0; i < n_steps; i++) {
        Lanes trial = begun;
        for (int64_t r = 0; r < W; r++) tried[r] = stepped(d[r], steps[i]);
        store(loss, round_lanes(Tile(), &trial, x, load(tried)));
        for (int64_t r = 0; r < W; r++) {
            if (!(loss[r] < least_loss[r]) && i > 0) continue;
            least_loss[r] = loss[r], rows[r].d = tried[r];
            for (int64_t g = 0; g < GROUPS; g++) lanes.scales[g][r] = trial.scales[g][r];
            for (int64_t j = 0; j < INPUTS; j++)
                lanes.codes[j][r] = trial.codes[j][r], lanes.weights[j][r] = trial.weights[j][r];
        }
    }
    for (int64_t r = 0; r < W; r++) {
        const int64_t row = tile_row + first + r;
        for (int64_t g = 0; g < GROUPS; g++) rows[r].scales[g] = int8_t(lanes.scales[g][r]);
        for (int64_t j = 0; j < INPUTS; j++) {
            rows[r].codes[j] = int8_t(lanes.codes[j][r]);
            if (row < call.out) call.errors[row * INPUTS + j] = lanes.weights[j][r];
        }
        write_row(Tile(), rows[r], first + r, tile);
    }
}

static void round_block(Team* team, const RoundCall* call) {
    alignas(64) float by_place[INPUTS];
    for (int64_t j = 0; j < INPUTS; j++) by_place[j % GROUP * GROUPS + j / GROUP] = call->costs[j];
    const Feedback x = {call->spread, call->costs, by_place};
    by_tile(call->to, [&]<class Tile>() {
        parallel(team, ceil_div(call->out, ROWS), call->out * INPUTS < SMALL_WORK, [=](int64_t i, int) {
            uint8_t* tile = call->storage + i * Tile::BYTES;
            memset(tile, 0, size_t(Tile::BYTES));
            for (int64_t r = 0; r < ROWS; r += W) round_rows(Tile(), *call, i * ROWS, r, x, tile);
        });
    });
}

}  // namespace octuor::OCTUOR_ISA
