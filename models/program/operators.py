"""The calls that an uploaded program may make.

Written out one by one: a name is here because it computes tensors from tensors, with no file, no
process, no random number and no access outside its operands. Kernels that only torch's decompositions
call, and that trust their arguments (`_fft_r2c` writes past its memory for a dimension that is not
there), are not here. What works in place (`IN_PLACE`), `normalize` turns into its functional twin, or
refuses the program. Dropout and uninitialised memory are here because `normalize` removes them.
"""

from __future__ import annotations


def names(namespace: str, text: str) -> frozenset[str]:
    """`add: Tensor Scalar` on a line becomes aten.add.Tensor and aten.add.Scalar; no colon means `default`."""
    found = []
    for line in text.split("\n"):
        name, _, overloads = line.partition(":")
        if overloads:
            found += [f"{namespace}.{name.strip()}.{overload}" for overload in overloads.split()]
        else:
            found += [f"{namespace}.{name}.default" for name in line.split()]
    return frozenset(found)


# Linear algebra and convolution: what a rank can be cut from, and its neighbours.
_PRODUCTS = names(
    "aten",
    """
    linear addmm mm bmm baddbmm matmul mv dot vdot addbmm einsum convolution _convolution bilinear
    outer ger inner tensordot kron chain_matmul linalg_multi_dot matrix_exp linalg_matrix_exp
    conv1d: default padding
    conv2d: default padding
    conv3d: default padding
    conv_transpose1d: default
    conv_transpose2d: input
    conv_transpose3d: input
    linalg_vecdot linalg_matmul addmv addr
    lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    lstm: input
    gru: input
    rnn_tanh: input
    rnn_relu: input
    scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
    """,
)

# Of matrices, by LAPACK. Not those that take pivots or reflectors, which would be read unchecked.
_MATRICES = names(
    "aten",
    """
    linalg_inv linalg_inv_ex inverse linalg_solve linalg_solve_ex _linalg_solve_ex linalg_solve_triangular
    linalg_det det _linalg_det linalg_slogdet slogdet _linalg_slogdet logdet
    linalg_cholesky linalg_cholesky_ex cholesky cholesky_solve cholesky_inverse
    linalg_qr qr linalg_svd svd _linalg_svd linalg_svdvals linalg_eigh _linalg_eigh linalg_eigvalsh
    linalg_matrix_power matrix_power linalg_cross cross linalg_diagonal linalg_vander vander
    linalg_tensorinv linalg_tensorsolve pinverse
    linalg_pinv: default atol_rtol_float atol_rtol_tensor rcond_tensor
    """,
)

# Complex numbers come and go between these: no tensor of the program, no input and no output is complex.
COMPLEX = names(
    "aten",
    """
    complex polar view_as_complex
    fft_fft fft_ifft fft_rfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_ihfftn
    stft: default center
    """,
)
_OF_COMPLEX = names(
    "aten",
    """
    view_as_real real imag conj _conj conj_physical resolve_conj resolve_neg angle isreal
    fft_irfft fft_hfft fft_irfft2 fft_hfft2 fft_irfftn fft_hfftn fft_fftshift fft_ifftshift
    istft
    """,
)

_NORMALISATION = names(
    "aten",
    """
    batch_norm native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit_functional
    _native_batch_norm_legit: default no_stats
    cudnn_batch_norm _batch_norm_no_update _batch_norm_with_update_functional
    instance_norm layer_norm native_layer_norm group_norm native_group_norm rms_norm _fused_rms_norm
    cosine_similarity pairwise_distance cdist _cdist_forward pdist dist
    norm: Scalar ScalarOpt_dtype ScalarOpt_dim ScalarOpt_dim_dtype
    linalg_norm: default ord_str
    linalg_matrix_norm: default str_ord
    nuclear_norm: default dim
    linalg_vector_norm
    frobenius_norm: dim
    renorm _weight_norm _weight_norm_interface
    """,
)

_ACTIVATIONS = names(
    "aten",
    """
    relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh softplus
    log_sigmoid hardshrink softshrink threshold glu prelu _prelu_kernel rrelu log_sigmoid_forward
    _softmax _log_softmax _safe_softmax
    softmax: int
    log_softmax: int
    special_expit special_logit logit logsumexp
    special_softmax
    special_log_softmax
    """,
)

_LOSSES = names(
    "aten",
    """
    mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits
    cross_entropy_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward kl_div soft_margin_loss
    hinge_embedding_loss margin_ranking_loss cosine_embedding_loss triplet_margin_loss poisson_nll_loss
    """,
)

_POINTWISE = names(
    "aten",
    """
    absolute negative fix arccos arccosh arcsin arcsinh arctan arctanh arctan2 deg2rad rad2deg
    lgamma digamma polygamma mvlgamma i0 igamma igammac
    ldexp: Tensor
    special_erf special_erfc special_erfcx special_erfinv special_gammaln special_digamma special_psi special_polygamma
    special_multigammaln special_gammainc special_gammaincc special_i0 special_i0e special_i1 special_i1e
    special_ndtr special_ndtri special_log_ndtr special_entr special_exp2 special_expm1 special_log1p special_sinc
    special_round special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
    special_xlog1py: default other_scalar self_scalar
    special_xlogy: default other_scalar self_scalar
    special_zeta: default other_scalar self_scalar
    gcd lcm nextafter isclose
    copysign: Tensor Scalar
    frexp: Tensor
    isin: Tensor_Tensor Tensor_Scalar Scalar_Tensor
    bucketize: Tensor Scalar
    searchsorted: Tensor Scalar
    __lshift__: Tensor Scalar
    __rshift__: Tensor Scalar
    bitwise_left_shift: Tensor Tensor_Scalar Scalar_Tensor
    bitwise_right_shift: Tensor Tensor_Scalar Scalar_Tensor
    greater: Tensor Scalar
    greater_equal: Tensor Scalar
    less: Tensor Scalar
    less_equal: Tensor Scalar
    not_equal: Tensor Scalar
    abs neg sign sgn signbit exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal
    sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv ceil floor trunc frac
    positive isnan isinf isfinite isneginf isposinf logical_not logical_and logical_or logical_xor
    bitwise_not sinc maximum minimum fmax fmin atan2 hypot logaddexp logaddexp2
    round: default decimals
    add: Tensor Scalar
    sub: Tensor Scalar
    subtract: Tensor Scalar
    rsub: Tensor Scalar
    mul: Tensor Scalar
    multiply: Tensor Scalar
    div: Tensor Scalar Tensor_mode Scalar_mode
    divide: Tensor Scalar Tensor_mode Scalar_mode
    true_divide: Tensor Scalar
    floor_divide: default Scalar
    remainder: Tensor Scalar Scalar_Tensor
    fmod: Tensor Scalar
    pow: Tensor_Tensor Tensor_Scalar Scalar
    float_power: Tensor_Tensor Tensor_Scalar Scalar
    addcmul addcdiv
    clamp: default Tensor
    clip: default Tensor
    clamp_min: default Tensor
    clamp_max: default Tensor
    eq: Tensor Scalar
    ne: Tensor Scalar
    lt: Tensor Scalar
    le: Tensor Scalar
    gt: Tensor Scalar
    ge: Tensor Scalar
    bitwise_and: Tensor Scalar Scalar_Tensor
    bitwise_or: Tensor Scalar Scalar_Tensor
    bitwise_xor: Tensor Scalar Scalar_Tensor
    __and__: Tensor Scalar
    __or__: Tensor Scalar
    __xor__: Tensor Scalar
    where: self ScalarSelf ScalarOther Scalar
    masked_fill: Scalar Tensor
    lerp: Scalar Tensor
    nan_to_num heaviside
    xlogy: Tensor Scalar_Self Scalar_Other
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
    """,
)

_REDUCTIONS = names(
    "aten",
    """
    mean: default dim
    sum: default dim_IntList
    prod: default dim_int
    var: default dim correction
    std: default dim correction
    var_mean: default dim correction
    std_mean: default dim correction
    amax amin aminmax argmax argmin
    max: default dim other
    min: default dim other
    any: default dim dims
    all: default dim dims
    cumsum cumprod cummax cummin logcumsumexp diff nansum nanmean
    trapezoid: x dx
    trapz: x dx
    cumulative_trapezoid: x dx
    topk kthvalue mode msort histc
    quantile: default scalar
    nanquantile: default scalar
    sort: default stable
    argsort: default stable
    median: default dim
    nanmedian: default dim
    count_nonzero: default dim_IntList
    """,
)

_POOLING = names(
    "aten",
    """
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool1d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im
    grid_sampler_2d grid_sampler_3d grid_sampler
    affine_grid_generator max_unpool2d max_unpool3d
    pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    upsample_nearest1d: default vec
    upsample_nearest2d: default vec
    upsample_nearest3d: default vec
    _upsample_nearest_exact1d: default vec
    _upsample_nearest_exact2d: default vec
    upsample_linear1d: default vec
    upsample_bilinear2d: default vec
    upsample_trilinear3d: default vec
    upsample_bicubic2d: default vec
    _upsample_bilinear2d_aa: default vec
    _upsample_bicubic2d_aa: default vec
    """,
)

_SHAPES = names(
    "aten",
    """
    view: default
    _unsafe_view reshape view_as reshape_as permute t numpy_T mT mH adjoint
    ravel unsqueeze expand expand_as broadcast_to contiguous clone alias detach lift_fresh_copy
    flatten: using_ints
    unflatten: int
    transpose: int
    swapaxes swapdims
    movedim: int intlist
    moveaxis: int intlist
    squeeze: default dim dims
    slice: Tensor
    select: int
    narrow: default
    split: Tensor sizes
    split_with_sizes chunk unsafe_chunk
    unsafe_split: Tensor
    unsafe_split_with_sizes
    tensor_split: sections indices
    unbind: int
    cat: default
    concat: default
    concatenate: default
    stack hstack vstack dstack
    repeat
    repeat_interleave: self_int
    tile roll flip fliplr flipud rot90
    index: Tensor
    _unsafe_index: Tensor
    _unsafe_index_put
    index_put index_select gather embedding take_along_dim
    scatter: src value reduce value_reduce
    scatter_add
    scatter_reduce: two
    index_add index_copy index_reduce take put masked_scatter
    index_fill: int_Scalar int_Tensor
    embedding_bag: default padding_idx
    slice_scatter select_scatter diagonal_scatter
    diagonal tril triu unfold
    diag_embed trace diag diagflat block_diag cartesian_prod column_stack row_stack pad_sequence sum_to_size
    hsplit: int array
    vsplit: int array
    dsplit: int array
    meshgrid: default indexing
    broadcast_tensors
    atleast_1d: default Sequence
    atleast_2d: default Sequence
    atleast_3d: default Sequence
    one_hot
    type_as
    to: dtype dtype_layout device other
    _to_copy
    """,
)

# Tensors out of numbers alone.
CONSTRUCTORS = names(
    "aten",
    """
    zeros ones full scalar_tensor tril_indices triu_indices linspace logspace fft_fftfreq fft_rfftfreq
    eye: default m
    bartlett_window: default periodic
    blackman_window: default periodic
    hann_window: default periodic
    hamming_window: default periodic periodic_alpha periodic_alpha_beta
    kaiser_window: default periodic beta
    arange: default start start_step
    empty: memory_format
    """,
)

_FILLING = names(
    "aten",
    """
    zeros_like ones_like full_like new_zeros new_ones new_full copy empty_like new_empty
    fill: Scalar Tensor
    """,
)

IN_PLACE = names(
    "aten",
    """
    relu_ relu6_ leaky_relu_ elu_ selu_ celu_ silu_ mish_ hardtanh_ hardswish_ hardsigmoid_ sigmoid_ tanh_
    threshold_ gelu_ abs_ neg_ exp_ log_ sqrt_ rsqrt_ square_ reciprocal_ sin_ cos_ erf_ ceil_ floor_ trunc_
    exp2_ expm1_ log2_ log10_ log1p_ tan_ asin_ acos_ atan_ sinh_ cosh_ erfc_ erfinv_ frac_ sign_ sinc_ logit_
    nan_to_num_ deg2rad_ rad2deg_ lgamma_ digamma_ i0_ tril_ triu_ baddbmm_ addbmm_
    lerp_: Scalar Tensor
    remainder_: Scalar Tensor
    fmod_: Scalar Tensor
    floor_divide_: Scalar Tensor
    clamp_: default Tensor
    clip_: default Tensor
    clamp_min_: default Tensor
    clamp_max_: default Tensor
    add_: Tensor Scalar
    sub_: Tensor Scalar
    mul_: Tensor Scalar
    div_: Tensor Scalar Tensor_mode Scalar_mode
    pow_: Scalar Tensor
    addcmul_ addcdiv_ addmm_
    masked_fill_: Scalar Tensor
    fill_: Scalar Tensor
    __iand__: Tensor Scalar
    __ior__: Tensor Scalar
    __ixor__: Tensor Scalar
    bitwise_and_: Tensor Scalar
    bitwise_or_: Tensor Scalar
    bitwise_xor_: Tensor Scalar
    copy_ zero_ index_put_ index_add_ index_copy_ scatter_add_ masked_scatter_
    index_fill_: int_Scalar int_Tensor
    scatter_: src value
    scatter_reduce_: two
    detach_
    dropout_ feature_dropout_ alpha_dropout_ feature_alpha_dropout_ round_
    """,
)

# Checks on sizes, and bookkeeping, that `normalize` drops.
VANISHING = names(
    "aten",
    """
    _assert_async: msg
    _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
    """,
)

# Arithmetic on sizes.
SYMBOLIC = frozenset({"aten.sym_size.int", "aten.sym_numel.default"}) | {
    f"operator.{name}"
    for name in (
        *("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
    )
}
# Those that Python spells as functions of its own, by torch's name for them.
SYMBOLIC |= {f"torch.{name}" for name in ("sym_float", "sym_int", "sym_max", "sym_min", "sym_sqrt", "sym_not")}

ALLOWED = frozenset().union(
    _PRODUCTS,
    _MATRICES,
    COMPLEX,
    _OF_COMPLEX,
    _NORMALISATION,
    _ACTIVATIONS,
    _LOSSES,
    _POINTWISE,
    _REDUCTIONS,
    _POOLING,
    _SHAPES,
    CONSTRUCTORS,
    _FILLING,
    IN_PLACE,
    VANISHING,
    SYMBOLIC,
)
