"""Names of the networks, by library and by the size of the images (pixels)."""

NETWORKS: dict[str, dict[int, str]] = {
    "torchvision": {
        64: """
            alexnet convnext_tiny densenet121 densenet169 efficientnet_b0
            efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_v2_s
            googlenet mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
            mobilenet_v3_small mobilenet_v3_large regnet_x_400mf regnet_x_800mf
            regnet_y_400mf regnet_y_800mf resnet18 resnet34 resnet50 resnext50_32x4d
            shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
            shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_t
            deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large fcn_resnet50
            vgg11_bn
        """,
        96: """
            inception_v3
        """,
        224: """
            maxvit_t
        """,
        256: """
            swin_v2_t
        """,
    },
    "facenet": {
        12: """
            PNet
        """,
        24: """
            RNet
        """,
        48: """
            ONet
        """,
        96: """
            InceptionResnetV1
        """,
    },
    "smp": {
        64: """
            unet-resnet18 unetplusplus-resnet18 manet-resnet18 linknet-resnet18
            fpn-resnet18 pspnet-resnet18 deeplabv3-resnet18 deeplabv3plus-resnet18
            upernet-resnet18 segformer-resnet18 unet-mobilenet_v2
            unet-efficientnet-b0 unet-timm-mobilenetv3_small_100 fpn-mobilenet_v2
            linknet-mobilenet_v2 unet-densenet121 unet-mobileone_s0 unet-mit_b0
            segformer-mit_b0 unet-vgg11_bn unet-dpn68 unet-timm-regnetx_002
            deeplabv3plus-mobilenet_v2 pspnet-mobilenet_v2 unet-resnet34
            unet-se_resnet50 unet-timm-skresnet18 unet-timm-resnest14d
            fpn-efficientnet-b0 manet-mobilenet_v2 unetplusplus-mobilenet_v2
        """,
        96: """
            unet-xception unet-inceptionv4
        """,
        128: """
            pan-resnet18
        """,
        224: """
            dpt-tu-vit_tiny_patch16_224
        """,
    },
    "timm": {
        64: """
            botnet26t_256 coat_lite_tiny coatnet_pico_rw_224 convmixer_768_32
            convnext_atto convnext_atto_ols convnext_femto convnext_pico
            convnext_zepto_rms convnextv2_atto convnextv2_femto convnextv2_pico
            convnextv2_nano convnext_nano convnext_tiny_hnf cs3darknet_focus_s
            cs3darknet_s cs3darknet_m cs3darknet_x cspresnet50 cspresnext50
            cspdarknet53 darknet17 darknet21 sedarknet21 cspnext_tiny cspnext_s
            davit_tiny deit_tiny_patch16_224 densenetblur121d dla34 dla46_c dla46x_c
            dla60x_c dla60_res2net dla60_res2next dpn48b dpn68 dpn68b
            eca_botnext26ts_256 eca_resnet33ts eca_resnext26ts eca_vovnet39b
            edgenext_small edgenext_x_small edgenext_xx_small efficientformerv2_s0
            efficientnet_b0_gn efficientnet_es efficientnet_em efficientnet_lite0
            efficientnet_lite1 efficientnet_cc_b0_4e efficientvit_b0 efficientvit_b1
            efficientvit_m0 efficientvit_m1 ese_vovnet19b_dw ese_vovnet19b_slim
            ese_vovnet19b_slim_dw ese_vovnet39b fasternet_t0 fasternet_t1 fastvit_t8
            fastvit_s12 fastvit_sa12 fbnetc_100 fbnetv3_b focalnet_tiny_srf
            gcresnet33ts gcresnext26ts gcresnext50ts gernet_s gernet_m ghostnet_050
            ghostnet_100 ghostnetv2_100 gmixer_12_224 gmlp_ti16_224 hardcorenas_a
            hardcorenas_c hardcorenas_f hgnet_tiny hgnetv2_b0 hgnetv2_b1 hgnetv2_b2
            hrnet_w18_small hrnet_w18_small_v2 inception_next_atto
            inception_next_tiny lambda_resnet26t lambda_resnet26rpt_256 lcnet_035
            lcnet_050 lcnet_100 legacy_seresnet18 legacy_seresnet34
            legacy_seresnext26_32x4d legacy_xception levit_128s levit_conv_128s
            mambaout_femto mambaout_kobe mixer_s32_224 mixnet_s mixnet_m mnasnet_050
            mnasnet_100 mnasnet_small semnasnet_075 semnasnet_100 mobilenetv1_100
            mobilenetv1_125 mobilenetv2_035 mobilenetv2_050 mobilenetv2_075
            mobilenetv2_110d mobilenetv2_140 mobilenetv3_small_050
            mobilenetv3_small_075 mobilenetv3_rw mobilenetv4_conv_small
            mobilenetv4_conv_small_035 mobilenetv4_conv_small_050
            mobilenetv4_conv_medium mobilenetv4_hybrid_medium mobileone_s0
            mobileone_s1 mobileone_s2 mobilevitv2_050
            mobilevitv2_075 nest_tiny nf_regnet_b0 nf_regnet_b1 nf_resnet26
            nf_ecaresnet26 nf_seresnet26 pit_ti_224 poolformer_s12 poolformerv2_s12
            convformer_s18 caformer_s18 pvt_v2_b0 pvt_v2_b1 rdnet_tiny regnetx_002
            regnetx_004 regnetx_006 regnetx_008 regnety_002 regnety_004 regnety_006
            regnety_008 regnetz_005 regnetz_b16 regnetv_040 repghostnet_050
            repghostnet_058 repghostnet_100 repvgg_a0 repvgg_a1 repvgg_b0
            repvit_m0_9 repvit_m1 repvit_m1_0 res2net50_14w_8s res2net50_26w_4s
            res2net50d res2next50 resmlp_12_224 resnest14d resnest26d resnet10t
            resnet14t resnet18d resnet26 resnet26d resnet26t resnet32ts resnet33ts
            resnet34d resnet50_gn resnet50c resnet50d resnet50t resnet51q
            resnetaa34d resnetaa50 resnetblur18 resnetblur50 resnetrs50 resnetv2_18
            resnetv2_18d resnetv2_34 resnetv2_50 resnetv2_50d_gn resnetv2_50x1_bit
            resnetv2_50d_evos resnext26ts resnext50d_32x4d rexnet_100 rexnet_130
            rexnetr_100 sebotnet33ts_256 selecsls42b seresnet18 seresnet33ts
            seresnet34 seresnet50 seresnet50t seresnext26d_32x4d seresnext26t_32x4d
            seresnext26ts shvit_s1 skresnet18 skresnet34 skresnext50_32x4d
            spnasnet_100 starnet_s1 starnet_s2 starnet_s3 starnet_s4 starnet_s050
            starnet_s100 swiftformer_xs swin_tiny_patch4_window7_224
            tf_efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0
            tf_efficientnetv2_b1 tf_mixnet_s tf_mobilenetv3_small_minimal_100
            tf_mobilenetv3_large_100 tiny_vit_5m_224 tinynet_a tinynet_b tinynet_c
            tinynet_d tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small
            twins_svt_small visformer_tiny vit_tiny_patch16_224 volo_d1_224
            vovnet39a wide_resnet50_2 xception41 xception41p xcit_nano_12_p16_224
            cait_xxs24_224 convit_tiny test_byobnet test_convnext test_convnext2
            test_convnext3 test_efficientnet test_efficientnet_evos
            test_efficientnet_gn test_efficientnet_ln test_mambaout test_nfnet
            test_resnet test_vit nfnet_f0 dm_nfnet_f0 eca_nfnet_l0 lcnetv2_small
            lowformer_b0 csatv2 efficientvim_m1 iformer_t cpubone_nano nextvit_small
        """,
        96: """
            inception_v3 inception_v4 inception_resnet_v2
        """,
        128: """
            mobilevit_xs mobilevit_xxs
        """,
        224: """
            test_maxvit test_coatnet maxvit_pico_rw_256 mvitv2_tiny gcvit_xxtiny
            hiera_tiny_224
        """,
        240: """
            crossvit_tiny_240
        """,
        256: """
            swinv2_tiny_window8_256 sequencer2d_s bat_resnext26ts eca_halonext26ts
            halonet26t
        """,
    },
    "pytorchcv": {
        32: """
            resnet20_cifar10 resnet56_cifar10 preresnet20_cifar10
            preresnet56_cifar10 resnext20_16x4d_cifar10 resnext20_32x2d_cifar10
            seresnet20_cifar10 sepreresnet20_cifar10 densenet40_k12_bc_cifar10
            densenet40_k12_cifar10 xdensenet40_2_k24_bc_cifar10
            pyramidnet110_a48_cifar10 wrn16_10_cifar10 ror3_56_cifar10 rir_cifar10
            shakeshakeresnet20_2x16d_cifar10 shakedropresnet20_cifar10
            resdropresnet20_cifar10 diaresnet20_cifar10 diapreresnet20_cifar10
            nin_cifar10 fractalnet_cifar10 resnet164bn_cifar10
            preresnet164bn_cifar10 seresnet56_cifar10 sepreresnet56_cifar10
        """,
        64: """
            dicenet_wd5 dicenet_w1 regnetx002 regnetx004 regnetx006 regnety002
            regnety004 regnety006 resnesta18 resnestabc14 resneta10 resneta18
            resnetabc14b resnetd50b tresnet_m bisenet_resnet18_celebamaskhq
            cgnet_cityscapes ctxnet_cityscapes dabnet_cityscapes edanet_cityscapes
            enet_cityscapes erfnet_cityscapes esnet_cityscapes espcnet_cityscapes
            fastscnn_cityscapes fpenet_cityscapes lednet_cityscapes
            linknet_cityscapes sqnet_cityscapes segnet_cityscapes unet_cityscapes
            centernet_resnet18_coco simplepose_resnet18_coco
            simplepose_mobile_mobilenet_w1_coco lwopenpose2d_mobilenet_cmupan_coco
            lwopenpose3d_mobilenet_cmupan_coco prnet icnet_resnetd50b_cityscapes
        """,
        128: """
            scnet50 sinet_cityscapes
        """,
        224: """
            revnet38 channelnet condensenet74_c4_g4 condensenet74_c8_g8 darknet_tiny
            darknet_ref darts densenet121 diaresnet10 diapreresnet10 dla46c dla46xc
            efficientnet_b0 efficientnet_b0b efficientnet_edge_small_b espnetv2_wd2
            espnetv2_w1 fbnet_cb fdmobilenet_wd4 fdmobilenet_wd2 fdmobilenet_w1
            ghostnet hardnet39ds hardnet68ds ibn_densenet121 igcv3_wd4 igcv3_wd2
            igcv3_w1 menet108_8x1_g3 menet128_8x1_g4 menet160_8x1_g8
            menet228_12x1_g3 menet256_12x1_g4 menet348_12x1_g3 mixnet_s mixnet_m
            mnasnet_a1 mnasnet_b1 mnasnet_small mobilenet_wd4 mobilenet_wd2
            mobilenet_w1 mobilenetb_wd4 mobilenetb_w1 mobilenetv2_wd4
            mobilenetv2_wd2 mobilenetv2_w1 mobilenetv2b_wd4 mobilenetv2b_w1
            mobilenetv3_small_w7d20 mobilenetv3_small_w1 mobilenetv3_large_wd2
            mobilenetv3_large_w1 nasnet_4a1056 octresnet10_ad2 peleenet preresnet10
            preresnet12 preresnet14 preresnet16 proxylessnas_cpu proxylessnas_mobile
            proxylessnas_gpu proxylessnas_mobile14 resnet10 resnet12 resnet14
            resnet16 resnet18_wd2 resnext14_16x4d sepreresnet10 sepreresnet12
            seresnet10 seresnet12 seresnet14 seresnet16 sharesnet18 shufflenet_g1_w1
            shufflenet_g2_w1 shufflenet_g3_w1 shufflenet_g4_w1 shufflenet_g8_w1
            shufflenet_g1_wd4 shufflenet_g3_wd2 shufflenetv2_w1 shufflenetv2_wd2
            shufflenetv2b_w1 shufflenetv2b_wd2 sparsenet121 spnasnet sqnxt23_w1
            sqnxt23v5_w1 sqnxt23_w2 squeezenet_v1_0 squeezenet_v1_1
            squeezeresnet_v1_0 squeezeresnet_v1_1 vovnet27s
        """,
        299: """
            inceptionv3
        """,
    },
}
